//! A page for a browser: where the space of each data set went, and how fast everything moved. It needs nothing besides
//! itself.
//!
//! A bar is as long as what clients wrote. What the disks hold is at its left, in full colours; what was saved follows in
//! pale ones, by what saved it.

use super::passes::Pass;
use super::space::Space;
use super::{Report, Set};
use crate::units::human_bytes;

/// Width of a drawing, in its own units; on the page it is as wide as there is room.
const WIDTH: f64 = 1000.0;
/// Where bars begin: names are to the left.
const LEFT: f64 = 130.0;
const ROW_HEIGHT: f64 = 46.0;
const BAR_HEIGHT: f64 = 34.0;
/// Narrowest part of a bar that has its name in it, for each character of the name.
const CHARACTER_WIDTH: f64 = 8.6;

const STYLE: &str = "
:root { color-scheme: light dark; --text: #1c2430; --faint: #5d6878; --page: #ffffff; --card: #f5f7fa; --line: #dde3ea;
  --stored: #1f5fbf; --dead: #8a94a3; --redundancy: #8a4fbe; --ink: #ffffff;
  --similarity: #a9dbb8; --compression: #b5d9e8; --duplicates: #dfe6ee; --pale-ink: #22303d; }
@media (prefers-color-scheme: dark) { :root { --text: #e6ebf2; --faint: #9aa7b8; --page: #12161c; --card: #1b212a;
  --line: #2f3845; --stored: #4f8fee; --dead: #7d8897; --redundancy: #a877dc; --ink: #0d1117;
  --similarity: #2c5c3d; --compression: #28505f; --duplicates: #2a333f; --pale-ink: #d7e0ea; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 3rem; max-width: 68rem; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { font-size: 1.15rem; margin: 0; }
p { margin: .25rem 0; color: var(--faint); }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 1rem 1.25rem;
  margin-top: 1.25rem; }
.head { display: flex; flex-wrap: wrap; justify-content: space-between; align-items: baseline; gap: .25rem 1rem; }
.ratio { font-size: 1.3rem; font-weight: 650; font-variant-numeric: tabular-nums; }
.ratio small { font-size: .85rem; font-weight: 400; color: var(--faint); }
svg { display: block; width: 100%; height: auto; margin: .75rem 0 .25rem; font: 15px system-ui, sans-serif; }
svg text { fill: var(--text); dominant-baseline: central; }
svg .ink { fill: var(--ink); } svg .pale { fill: var(--pale-ink); } svg .faint { fill: var(--faint); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; table-layout: fixed; min-width: 46rem; width: 100%; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { text-align: right; padding: .25rem .6rem; border-top: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 500; color: var(--faint); border-top: 0; } th:first-child, td:first-child { text-align: left; padding-left: 0; }
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1.25rem; margin-top: .75rem; font-size: .9rem; }
.legend i { display: inline-block; width: .9em; height: .9em; border-radius: 3px; margin-right: .4em;
  vertical-align: -.08em; }
";

/// The parts of a bar from left to right, as they are called, with what they mean.
const LEGEND: [(&str, &str); 6] = [
    ("stored", "on disk: compressed, each chunk once"),
    ("dead", "on disk: not needed any more, headers, padding"),
    ("redundancy", "on disk: parity"),
    ("similarity", "saved: chunks compressed with similar ones"),
    ("compression", "saved: chunks compressed by themselves"),
    ("duplicates", "saved: equal chunks stored once"),
];

fn parts(space: &Space) -> [(&'static str, u64); 6] {
    let bytes = [
        space.stored_bytes,
        space.dead_bytes,
        space.redundancy_bytes,
        space.similarity_bytes,
        space.compression_bytes,
        space.duplicate_bytes,
    ];
    std::array::from_fn(|part| (LEGEND[part].0, bytes[part]))
}

/// The page.
pub(super) fn page(report: &Report) -> String {
    let (total, collected) = report.total();
    let mut body = String::new();
    body += &format!(
        "<h1>Where the space went</h1>\n<p>{} in {} files. A bar is as long as what clients wrote; its full colours are \
         what the disks hold of it, the pale ones what was saved.</p>\n",
        human_bytes(report.logical_bytes),
        report.files
    );
    body += "<div class=\"legend\">\n";
    for (name, meaning) in LEGEND {
        body += &format!(
            "<span><i style=\"background:var(--{name})\"></i>{name} <span style=\"color:var(--faint)\">{meaning}</span></span>\n"
        );
    }
    body += "</div>\n";
    if report.sets.len() > 1 {
        body += &section("All data sets", report.files, &total, collected.as_ref());
    }
    for Set { name, files, space, collected, .. } in &report.sets {
        body += &section(name, *files, space, collected.as_ref());
    }
    body += &speeds(&report.passes);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>Where the space went</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )
}

/// One data set: its ratios, its bars, its numbers.
fn section(name: &str, files: usize, space: &Space, collected: Option<&Space>) -> String {
    let states: Vec<(&str, &Space)> =
        [("as stored", space)].into_iter().chain(collected.map(|space| ("collected", space))).collect();
    let ratios: Vec<String> =
        states.iter().map(|(state, space)| format!("{:.1} : 1 <small>{state}</small>", space.ratio())).collect();
    let scale_bytes = states.iter().map(|(_, space)| parts(space).iter().map(|part| part.1).sum()).max().unwrap_or(0);
    let mut bars = String::new();
    for (row, (state, space)) in states.iter().enumerate() {
        bars += &bar(row, state, space, scale_bytes);
    }
    let mut table = String::from("<tr><th></th><th>logical</th>");
    LEGEND.iter().for_each(|(name, _)| table += &format!("<th>{name}</th>"));
    table += "</tr>\n";
    for (state, space) in &states {
        table += &format!("<tr><td>{state}</td><td>{}</td>", human_bytes(space.logical_bytes));
        parts(space).iter().for_each(|(_, bytes)| table += &format!("<td>{}</td>", human_bytes(*bytes)));
        table += "</tr>\n";
    }
    format!(
        "<section>\n<div class=\"head\"><h2>{}</h2><div class=\"ratio\">{}</div></div>\n<p>{} in {files} {}</p>\n{}\
         <div class=\"scroll\"><table>\n{table}</table></div>\n</section>\n",
        escaped(name),
        ratios.join(" → "),
        human_bytes(space.logical_bytes),
        if files == 1 { "file" } else { "files" },
        drawing(states.len(), &bars),
    )
}

fn drawing(rows: usize, content: &str) -> String {
    let height = rows as f64 * ROW_HEIGHT;
    format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n{content}</svg>\n")
}

/// A bar of parts, each with its name in it where there is room.
fn bar(row: usize, state: &str, space: &Space, scale_bytes: u64) -> String {
    let top = row as f64 * ROW_HEIGHT + (ROW_HEIGHT - BAR_HEIGHT) / 2.0;
    let middle = top + BAR_HEIGHT / 2.0;
    let per_byte = (WIDTH - LEFT) / scale_bytes.max(1) as f64;
    let mut text = format!("<text x=\"0\" y=\"{middle:.1}\">{state}</text>\n");
    let mut left = LEFT;
    for (number, (name, bytes)) in parts(space).into_iter().enumerate() {
        let width = bytes as f64 * per_byte;
        let percent = bytes as f64 * 100.0 / space.logical_bytes.max(1) as f64;
        if bytes > 0 {
            text += &format!(
                "<rect x=\"{left:.2}\" y=\"{top:.1}\" width=\"{width:.2}\" height=\"{BAR_HEIGHT}\" fill=\"var(--{name})\">\
                 <title>{name}: {} ({percent:.1} %)</title></rect>\n",
                human_bytes(bytes)
            );
            let label = format!("{name} {percent:.1} %");
            if width > (label.len() as f64 + 1.0) * CHARACTER_WIDTH {
                let class = if number < 3 { "ink" } else { "pale" };
                let centre = left + width / 2.0;
                text += &format!(
                    "<text class=\"{class}\" x=\"{centre:.1}\" y=\"{middle:.1}\" text-anchor=\"middle\">{label}</text>\n"
                );
            }
        }
        left += width;
    }
    text
}

/// Speed of each pass, and what it cost the server.
fn speeds(passes: &[Pass]) -> String {
    let fastest = passes.iter().map(|pass| pass.bytes_per_s).fold(f64::MIN_POSITIVE, f64::max);
    // To the right of the longest bar there is room for its numbers.
    let (left, room) = (LEFT + 40.0, WIDTH - LEFT - 40.0 - 270.0);
    let mut rows = String::new();
    for (row, pass) in passes.iter().enumerate() {
        let top = row as f64 * ROW_HEIGHT + (ROW_HEIGHT - BAR_HEIGHT) / 2.0;
        let middle = top + BAR_HEIGHT / 2.0;
        let width = pass.bytes_per_s / fastest * room;
        let cpu = pass.server_cpu_s_per_gb.map_or(String::new(), |cpu| format!(", {cpu:.2} s of CPU per GB"));
        rows += &format!("<text x=\"0\" y=\"{middle:.1}\">{}</text>\n", pass.pass);
        rows += &format!(
            "<rect x=\"{left}\" y=\"{top:.1}\" width=\"{width:.2}\" height=\"{BAR_HEIGHT}\" rx=\"4\" \
             fill=\"var(--stored)\"/>\n"
        );
        rows += &format!(
            "<text class=\"faint\" x=\"{:.1}\" y=\"{middle:.1}\">{:.0} MB/s{cpu}</text>\n",
            left + width + 10.0,
            pass.bytes_per_s / 1e6
        );
    }
    format!(
        "<section>\n<div class=\"head\"><h2>Speed</h2></div>\n<p>Plain bytes per second, all files; a collection: unique \
         bytes.</p>\n{}</section>\n",
        drawing(passes.len(), &rows)
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let space = Space {
            logical_bytes: 2_000_000,
            unique_bytes: 500_000,
            duplicate_bytes: 1_500_000,
            compression_bytes: 300_000,
            stored_bytes: 200_000,
            dead_bytes: 1_000,
            ..Space::default()
        };
        let collected = Space { compression_bytes: 10_000, similarity_bytes: 420_000, stored_bytes: 70_000, ..space };
        let pass = Pass {
            pass: "ingest",
            bytes: 2_000_000,
            seconds: 0.01,
            bytes_per_s: 2e8,
            client_cpu_s: 0.1,
            server_cpu_s: Some(0.02),
            server_cpu_s_per_gb: Some(10.0),
        };
        let set = |name: &str| Set {
            name: name.to_owned(),
            files: 3,
            space,
            collected: Some(collected),
            passes: vec![pass.clone()],
        };
        Report::of(6, vec![set("a<b"), set("versions")])
    }

    #[test]
    fn the_page_needs_nothing_besides_itself_and_shows_every_part() {
        let page = page(&report());
        for part in
            ["All data sets", "a&lt;b", "10.0 : 1 <small>as stored", "28.6 : 1 <small>collected", "similarity 21.0 %"]
        {
            assert!(page.contains(part), "{part}: {page}");
        }
        for outside in ["http:", "https:", "src=", "href=", "url(", "@import", "<script", "a<b"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    }

    #[test]
    fn a_bar_ends_where_its_parts_do() {
        let set = &report().sets[0];
        let scale: u64 = parts(&set.space).iter().map(|part| part.1).sum();
        let text = bar(0, "as stored", &set.space, scale);
        let widths = text.split("width=\"").skip(1).map(|rest| rest.split('"').next().unwrap().parse::<f64>().unwrap());
        assert!((widths.sum::<f64>() - (WIDTH - LEFT)).abs() < 0.1, "{text}");
    }
}

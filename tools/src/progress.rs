//! Progress on a terminal, and readers that report it.

use std::io::{self, IsTerminal, Read, Seek, SeekFrom};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::Output;

/// How often the bar is drawn while nothing moves, so that a stall looks like one.
const TICK: Duration = Duration::from_millis(200);
/// Bytes, rate and time to go.
const KNOWN: &str = "{wide_msg} {bytes:>10} of {total_bytes:<10} [{bar:30}] {bytes_per_sec:>12}  ETA {eta}";
/// Where nobody knows how much is to come.
const UNKNOWN: &str = "{wide_msg} {bytes:>10} {bytes_per_sec:>12}  {elapsed}";

/// A bar on stderr if that is a terminal and nobody asked for silence; otherwise it only counts.
///
/// `total` is the number of bytes to come, `None` if that is unknown.
pub(crate) fn bar(output: Output, label: &str, total: Option<u64>) -> ProgressBar {
    let visible = io::stderr().is_terminal() && !output.quiet && !output.json;
    let target = if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(total, target);
    let template = if total.is_some() { KNOWN } else { UNKNOWN };
    let style = ProgressStyle::with_template(template).expect("invariant: the templates are well formed");
    bar.set_style(style.progress_chars("=> "));
    bar.set_message(label.to_owned());
    if visible {
        bar.enable_steady_tick(TICK);
    }
    bar
}

/// A line on stderr that says what is waited for, under the same conditions as a [`bar`].
pub(crate) fn spinner(output: Output, label: &str) -> ProgressBar {
    let spinner = bar(output, label, None);
    let style = ProgressStyle::with_template("{spinner} {wide_msg} {elapsed}");
    spinner.set_style(style.expect("invariant: the template is well formed"));
    spinner
}

/// A reader whose bytes count on a bar. Starting over takes them back.
pub(crate) struct Counted<'a, R> {
    reader: R,
    bar: &'a ProgressBar,
    counted: u64,
}

impl<'a, R> Counted<'a, R> {
    pub(crate) fn new(reader: R, bar: &'a ProgressBar) -> Counted<'a, R> {
        Counted { reader, bar, counted: 0 }
    }
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.counted += read as u64;
        self.bar.inc(read as u64);
        Ok(read)
    }
}

impl<R: Seek> Seek for Counted<'_, R> {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        let position = self.reader.seek(position)?;
        self.bar.dec(self.counted.saturating_sub(position));
        self.counted = self.counted.min(position);
        Ok(position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_sent_again_count_once() {
        let bar = ProgressBar::hidden();
        bar.inc(5);
        let mut reader = Counted::new(io::Cursor::new([0; 10]), &bar);
        io::copy(&mut reader, &mut io::sink()).unwrap();
        assert_eq!(bar.position(), 15);
        reader.seek(SeekFrom::Start(0)).unwrap();
        assert_eq!(bar.position(), 5);
        io::copy(&mut reader, &mut io::sink()).unwrap();
        assert_eq!(bar.position(), 15);
    }
}

//! Golden bytes of the state: every kind of key and record, as a snapshot frame holds them.

use proto::{DeviceId, DomainId, InodeId, SegmentId, VersionNumber};

use super::exec;
use crate::command::{Attributes, Command, Condition, Content, Place, Response, Session};
use crate::manifest::ManifestEntry;
use crate::retention::Retention;
use crate::state::State;

fn at(name: &str) -> Place {
    Place { parent: InodeId::ROOT, make_dirs: vec!["directory".into()], name: name.into() }
}

#[test]
fn keys_and_records_are_frozen() {
    let attributes = || Attributes {
        mode: Some(0o640),
        mtime_ns: Some(0x11),
        content_type: Some("text/plain".into()),
        user_metadata: vec![("colour".into(), "blue".into())],
        owner: 0x12,
    };
    let session = Some(Session::Numbered { client: 0x21, sequence: 0x22, acked_below: 0x20 });
    let commit = |name: &str, content, session| Command::CommitFile {
        at: at(name),
        content,
        attributes: attributes(),
        condition: Condition::Any,
        session,
        now_ns: 0x31,
        pin_epoch: 0,
    };
    let entries = vec![ManifestEntry { id: [0x41; 32], bytes: 0x42, location: 0x43 }];
    let chunks = Content::Chunks { size: 0x42, domain: DomainId(0), depth: 0, entries };
    let open = |segment| Command::OpenSegment {
        segment: SegmentId(segment),
        members: vec![DeviceId([0x51; 16])],
        k: 1,
        m: 0,
        stream: 0x52,
        generation: 0x54,
        now_ns: 0x53,
    };
    let commands = [
        Command::Format { now_ns: 1 },
        Command::CreateDomain {
            domain: DomainId(0),
            chunker: 1,
            ring_key: 2,
            wrap_nonce: [3; 12],
            wrapped_key: [4; 48],
        },
        commit("inline", Content::Inline(b"bytes".to_vec()), session),
        commit("chunked", chunks, None),
        commit(
            "inline",
            Content::Inline(Vec::new()),
            Some(Session::Keyed { key: [0x23; 16], fingerprint: [0x24; 16] }),
        ),
        Command::Restore {
            at: at("inline"),
            version: VersionNumber(1),
            condition: Condition::Exists,
            session: None,
            now_ns: 0x32,
        },
        Command::Rename { from: at("chunked"), to: at("moved"), replace: false, session: None, now_ns: 0x33 },
        Command::MakeSymlink {
            at: at("symlink"),
            target: "target".into(),
            attributes: attributes(),
            session: None,
            now_ns: 0x61,
        },
        open(0x71),
        open(0x72),
        open(0x73),
        Command::SealSegment { segment: SegmentId(0x72), footer_offsets: vec![0x74] },
        Command::SealSegment { segment: SegmentId(0x73), footer_offsets: vec![] },
        Command::FreeSegment { segment: SegmentId(0x73) },
        Command::SetRetention {
            directory: InodeId::ROOT,
            retention: Some(Retention { keep: Some(0x75), keep_for_ns: Some(0x76) }),
            condition: Condition::Exists,
            session: None,
            now_ns: 0x77,
        },
        open(0x75),
        Command::SealSegment { segment: SegmentId(0x75), footer_offsets: vec![] },
        Command::FreeSegment { segment: SegmentId(0x75) },
        Command::ForgetSegment { segment: SegmentId(0x75) },
        Command::RaiseEpoch { epoch: 2 },
    ];
    let mut state = State::default();
    for command in &commands {
        let response = exec(command, &mut state);
        assert!(!matches!(response, Response::Failed(_)), "{response:?}");
    }
    state.begin_snapshot();
    let frame = state.next_run(usize::MAX);
    crate::testing::golden("the state", &frame.body, include_str!("../../golden/state.hex"));
}

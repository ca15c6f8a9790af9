//! Frames survive their bytes; other bytes give errors and nothing worse.

use alloc::{vec, vec::Vec};

use proptest::prelude::*;

use super::{codec, frame::Configured, *};
use crate::time::{Mono, Span};

fn header() -> impl Strategy<Value = Header> {
    let echo = prop::option::of((any::<u32>(), any::<u32>()));
    (any::<[u64; 4]>(), any::<u32>(), echo).prop_map(
        |([number, open, acknowledged, unmerged], sent, echo)| Header {
            number,
            open,
            acknowledged,
            unmerged,
            sent,
            echo: echo.map(|(stamp, held)| Echo { stamp, held }),
        },
    )
}

fn section() -> impl Strategy<Value = Section> {
    let entry = (any::<[u8; 16]>(), any::<[u64; 4]>()).prop_map(
        |(caller, [used, refunded, refused, note])| SlotEntry {
            caller,
            used,
            refunded,
            refused,
            note,
        },
    );
    let of = prop::option::of(("[a-z]{1,8}", "[a-z]{1,8}", any::<u64>()))
        .prop_map(|of| of.map(|(region, node, boot)| Speaker { region, node, boot }));
    let entries = prop::collection::vec(entry, 0..20);
    let slots = (of, any::<(u32, u64, bool, u64)>(), entries).prop_map(
        |(of, (limit, window, global, label), entries)| Slots {
            of,
            limit,
            window,
            global,
            label,
            entries,
        },
    );
    let sums = prop::collection::vec(any::<u64>(), 0..64);
    let speaker = ("[a-z]{1,8}", "[a-z]{1,8}", any::<u64>())
        .prop_map(|(region, node, boot)| Speaker { region, node, boot });
    let ages = prop::collection::vec((speaker, any::<u64>()), 0..8);
    let given = prop::collection::vec(any::<(u32, u64)>(), 0..4);
    let heard = any::<(u32, [u64; 3])>().prop_map(|(from, [epoch, amount, ceiling])| HeardEntry {
        from,
        epoch,
        amount,
        ceiling,
    });
    let heard = prop::collection::vec(heard, 0..4);
    let rights = (any::<([u8; 16], [u64; 2], bool)>(), given, heard).prop_map(
        |((caller, [epoch, ceiling], asks), given, heard)| RightsEntry {
            caller,
            epoch,
            ceiling,
            given,
            asks,
            heard,
        },
    );
    let rights = (any::<(u32, u64, u64)>(), prop::collection::vec(rights, 0..8))
        .prop_map(|((limit, window, label), entries)| Rights { limit, window, label, entries });
    let windowed = prop_oneof![
        rights.clone().prop_map(Section::Rights),
        (any::<u32>(), rights.clone()).prop_map(|(of, rights)| Section::RightsPassedOn(of, rights)),
        slots.clone().prop_map(Section::Slots),
        slots.clone().prop_map(Section::Hearsay),
    ];
    prop_oneof![
        (any::<u8>(), "[A-Z][a-z/_]{0,30}", windowed).prop_map(|(unit, zone, section)| {
            Section::Calendar(Calendar { unit, zone }, section.into())
        }),
        rights.clone().prop_map(Section::Rights),
        any::<(u64, [u64; 3], Option<(u64, u64, Option<u64>, u64)>, u64)>().prop_map(
            |(epoch, fingerprints, adopted, yours)| {
                Section::Config(ConfigReading {
                    configured: Configured { epoch, fingerprints },
                    adopted,
                    yours,
                })
            }
        ),
        (any::<u32>(), rights).prop_map(|(of, rights)| Section::RightsPassedOn(of, rights)),
        slots.clone().prop_map(Section::Slots),
        slots.prop_map(Section::Hearsay),
        Just(Section::Relayed),
        Just(Section::Relay),
        ages.prop_map(|ages| Section::Heard(Heard { ages })),
        any::<u64>().prop_map(|retold| Section::WalkEnd(WalkEnd { retold })),
        (any::<(u8, u32, u32)>(), sums).prop_map(|((bits, first, step), sums)| {
            Section::Digests(Digests { bits, first, step, sums })
        }),
        prop::collection::vec(any::<u32>(), 0..64).prop_map(|ranges| Section::Ask(Ask { ranges })),
        any::<(u64, bool, Option<(u64, u64)>)>().prop_map(|(cluster, settled, store)| {
            let store = store.map(|(shows, error)| StoreClock { shows, error });
            Section::Clock(ClockReading { cluster, settled, store })
        }),
    ]
}

fn frame() -> impl Strategy<Value = Frame> {
    (header(), prop::collection::vec(section(), 0..6))
        .prop_map(|(header, sections)| Frame { header, sections })
}

proptest! {
    #[test]
    fn a_frame_survives_its_bytes(frame in frame()) {
        prop_assert_eq!(Frame::decode(&frame.encode()), Ok(frame));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Frame::decode(&bytes);
    }

    #[test]
    fn a_truncated_frame_is_an_error_or_a_shorter_frame(frame in frame(), cut in any::<prop::sample::Index>()) {
        let bytes = frame.encode();
        let cut = cut.index(bytes.len());
        if let Ok(shorter) = Frame::decode(&bytes[..cut]) {
            prop_assert!(shorter.sections.len() < frame.sections.len());
            prop_assert_eq!(shorter.header, frame.header);
        }
    }

    #[test]
    fn flipped_bits_never_panic(frame in frame(), at in any::<prop::sample::Index>(), bit in 0_u32..8) {
        let mut bytes = frame.encode();
        let at = at.index(bytes.len());
        bytes[at] ^= 1_u8 << bit;
        let _ = Frame::decode(&bytes);
    }

    #[test]
    fn an_unknown_section_is_skipped(frame in frame(), kind in 100_u8.., payload in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut bytes = frame.encode();
        bytes.push(kind);
        codec::encode(&(payload.len() as u64), &mut bytes);
        bytes.extend_from_slice(&payload);
        prop_assert_eq!(Frame::decode(&bytes), Ok(frame));
    }
}

/// A frame whose only section is of kind 13 with this payload.
fn with_calendar(payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, 0, 0, 13];
    bytes.push(payload.len() as u8);
    bytes.extend_from_slice(payload);
    bytes
}

#[test]
fn a_calendar_is_a_unit_and_a_zone_before_what_it_wraps() {
    let slots =
        Slots { of: None, limit: 5, window: 0, global: true, label: 30, entries: Vec::new() };
    let bytes = with_calendar(b"\x03\x03UTC\x01\x00\x05\x00\x01\x1e\x00");
    let frame = Frame::decode(&bytes).expect("sound");
    let calendar = Calendar { unit: 3, zone: "UTC".into() };
    assert_eq!(frame.sections, [Section::Calendar(calendar, Section::Slots(slots).into())]);
    assert_eq!(frame.encode(), bytes);
}

#[test]
fn a_calendar_wraps_slots_and_rights_alone() {
    // Itself, the end of a walk, and a kind of a later version.
    for wrapped in [&b"\x0d\x03\x03UTC\x01"[..], b"\x02\x00", b"\x63\x00\x01"] {
        let mut payload = b"\x03\x03UTC".to_vec();
        payload.extend_from_slice(wrapped);
        let frame = Frame::decode(&with_calendar(&payload)).expect("it is skipped");
        assert_eq!(frame.sections, [], "{wrapped:?}");
    }
    for short in
        [&b""[..], b"\x03", b"\x03\x03UT", b"\x03\x03UTC", b"\x03\x03UTC\x01", b"\x03\x01\xff\x01"]
    {
        assert_eq!(Frame::decode(&with_calendar(short)), Err(FrameError::Malformed), "{short:?}");
    }
}

#[test]
fn a_length_that_claims_too_much_claims_no_memory() {
    // version, number, open, acknowledged, unmerged, sent, no echo, slots of 2^60 entries
    let mut bytes = vec![2, 0, 0, 0, 0, 0, 0, 1];
    let mut payload: Vec<u8> = vec![0, 0, 0, 0, 0];
    payload.extend_from_slice(&[253, 0, 0, 0, 0, 0, 0, 0, 16]);
    bytes.push(payload.len() as u8);
    bytes.extend_from_slice(&payload);
    assert_eq!(Frame::decode(&bytes), Err(FrameError::Malformed));
}

#[test]
fn large_and_foreign_frames_are_refused() {
    assert_eq!(Frame::decode(&vec![1; FRAME_BYTES_MAX + 1]), Err(FrameError::TooLarge));
    assert_eq!(Frame::decode(&[1, 0, 0, 0, 0, 0, 0]), Err(FrameError::Version));
    assert_eq!(Frame::decode(&[]), Err(FrameError::Malformed));
}

#[test]
fn an_echo_measures_the_round_trip_without_the_time_it_was_held() {
    let sent = Mono(5_000_000);
    let echo = Echo::of(stamp_of(sent), Span::millis(7));
    assert_eq!(echo.round_trip(Mono(5_090_000)), Some(Span::millis(83)));
    let foreign = Echo { stamp: stamp_of(Mono(9_000_000)), held: 0 };
    assert_eq!(foreign.round_trip(Mono(5_090_000)), None);
}

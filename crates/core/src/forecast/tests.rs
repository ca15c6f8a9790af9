use super::*;
use crate::store::COUNT_MAX;

const WINDOW: Span = Span::secs(1);
const LABEL: Label = Label(7);
const PEER: SessionIndex = SessionIndex(1);

const fn answered(passes: bool, own_session: u64) -> Answered {
    Answered { cost: 1, passes, own_session, region: None }
}

const fn ms(ms: u64) -> Mono {
    Mono(ms * 1_000)
}

fn forecast() -> Forecast {
    Forecast::new(Window::new(WINDOW).expect("a second"), LABEL, ms(0))
}

fn peer(as_of: Mono) -> Participant {
    Participant {
        session: PEER,
        region: RegionIndex(1),
        as_of,
        delay: Span::millis(40),
        echoed: None,
        fingerprint: 7,
    }
}

fn sight(now: Mono, participants: &[Participant]) -> Sight<'_> {
    let (gossip, reclaim_after) = (Span::millis(50), Span::secs(2));
    Sight { now, gossip, reclaim_after, participants }
}

/// At `elapsed` ms into the label: of 1,000, `others` and `own` are used.
fn question(elapsed: u64, others: u64, own: u64) -> Question {
    Question {
        label: LABEL,
        elapsed: Span::millis(elapsed),
        left: Span::millis(1_000 - elapsed),
        cost: 1,
        quantity: 1_000,
        others,
        own_region: own,
        own_session: own,
        share: 0.5,
        evidence: true,
        chance: 0,
    }
}

fn news(units: u64, label: Label, stopped: bool, since: u64, told: u64) -> News {
    let (since, told) = (ms(since), ms(told));
    News {
        session: PEER,
        label,
        units,
        note: Note { weight: 1, rights: false, stopped },
        since,
        told,
    }
}

#[test]
fn what_is_not_known_yet_is_forecast_and_kept_free() {
    let mut forecast = forecast();
    forecast.handle_news(&news(200, LABEL, false, 0, 200));
    let participants = [peer(ms(200))];
    // 1,000 a second for 90 ms, and two standard deviations of that.
    let ceiling = forecast.ceiling(&question(290, 200, 0), &sight(ms(290), &participants)).0.net;
    assert_eq!(ceiling, 1_000 - 200 - 109);
    // Near the end there is no time to give a margin back: it shrinks.
    let ceiling = forecast.ceiling(&question(990, 200, 0), &sight(ms(290), &participants)).0.net;
    assert_eq!(ceiling, 1_000 - 200 - 92);
}

#[test]
fn nothing_is_kept_for_who_has_stopped_or_is_a_label_ahead() {
    let participants = [peer(ms(200))];
    let ceiling = |label, stopped| {
        let mut forecast = forecast();
        forecast.handle_news(&news(200, label, stopped, 0, 200));
        forecast.ceiling(&question(290, 200, 0), &sight(ms(290), &participants)).0.net
    };
    assert_eq!(ceiling(LABEL, true), 800);
    assert_eq!(ceiling(LABEL.next(), false), 800);
    // Of the label before, only the time since this one began counts; and a stop then says nothing now.
    assert_eq!(ceiling(LABEL.previous(), true), 800 - 109);
}

#[test]
fn less_than_one_request_under_way_is_plain() {
    let mut forecast = forecast();
    forecast.handle_news(&news(2, LABEL, false, 0, 200));
    let ceiling = forecast.ceiling(&question(290, 2, 0), &sight(ms(290), &[peer(ms(200))])).0.net;
    assert_eq!(ceiling, 998);
}

#[test]
fn who_cannot_be_heard_is_given_its_share_and_after_a_while_nothing() {
    let mut forecast = forecast();
    forecast.handle_news(&news(200, LABEL, false, 0, 200));
    forecast.handle_asked(ms(200), LABEL, 200);
    let participants = [peer(ms(200))];
    let mut ceiling =
        |now| forecast.ceiling(&question(900, 200, 200), &sight(ms(now), &participants)).0.net;
    assert!(ceiling(1_200) >= 800 - 500 - 3 * 23, "half of the demand: half of the quantity");
    assert!(ceiling(1_200) < 310);
    assert_eq!(ceiling(2_300), 800, "two seconds on it is taken for dead");
}

#[test]
fn when_all_have_stopped_each_takes_its_part_of_what_is_left() {
    let mut forecast = forecast();
    forecast.handle_asked(ms(200), LABEL, 200);
    forecast.handle_news(&news(200, LABEL, false, 0, 200));
    let refused = Ceiling::certain(0);
    assert_eq!(
        forecast.handle_answer(ms(300), LABEL, refused, &answered(false, 400)),
        Urgency::Now
    );
    assert!(forecast.has_stopped(LABEL));
    assert_eq!(
        forecast.handle_answer(ms(301), LABEL, refused, &answered(false, 400)),
        Urgency::None,
        "once"
    );
    // The other one has stopped too, and says so after it has heard of this stop.
    forecast.handle_asked(ms(450), LABEL, 250);
    forecast.handle_news(&news(250, LABEL, true, 200, 450));
    let participants = [peer(ms(450))];
    let ask = |own| question(450, 520, own);
    let mut admitted = 0;
    for _ in 0..100 {
        let (ceiling, _) = forecast.ceiling(&ask(400 + admitted), &sight(ms(450), &participants));
        let passes = ceiling.net > 400 + admitted;
        admitted += u64::from(passes);
        forecast.handle_answer(ms(450), LABEL, ceiling, &answered(passes, 400 + admitted));
    }
    assert_eq!(admitted, 40, "half of what is left");
}

#[test]
fn another_quantity_is_shared_out_at_once_by_who_has_stopped() {
    let mut forecast = forecast();
    forecast.handle_asked(ms(200), LABEL, 200);
    forecast.handle_answer(ms(300), LABEL, Ceiling::certain(0), &answered(false, 400));
    let ask = |quantity| Question { quantity, ..question(450, 600, 400) };
    let mut net = |at, quantity| forecast.ceiling(&ask(quantity), &sight(ms(at), &[])).0.net;
    assert_eq!(net(450, 1_000), 0, "nothing is left");
    assert_eq!(net(451, 1_000), 0);
    assert!(net(452, 1_500) > 400, "and now 500 are");
}

#[test]
fn a_label_is_closed_until_the_store_opens_it() {
    let mut forecast = forecast();
    assert!(!forecast.is_closed(LABEL));
    forecast.note_open(LABEL, false);
    forecast.note_open(LABEL.previous(), false);
    assert!(forecast.is_closed(LABEL) && !forecast.is_closed(LABEL.next()));
    forecast.note_open(LABEL, true);
    assert!(!forecast.is_closed(LABEL));
}

#[test]
fn what_is_under_way_counts_against_the_part() {
    let mut forecast = forecast();
    forecast.handle_asked(ms(200), LABEL, 200);
    forecast.handle_answer(ms(300), LABEL, Ceiling::certain(0), &answered(false, 400));
    let ceilings: Vec<_> = (0..700)
        .map(|_| forecast.ceiling(&question(450, 0, 400), &sight(ms(450), &[])).0)
        .collect();
    assert_eq!(ceilings.iter().filter(|ceiling| ceiling.net > 0).count(), 600);
    for ceiling in ceilings {
        forecast.handle_answer(ms(460), LABEL, ceiling, &answered(false, 400));
    }
    assert!(forecast.ceiling(&question(460, 0, 400), &sight(ms(460), &[])).0.net > 0);
}

#[test]
fn a_surge_is_told_at_once_and_takes_more_than_its_share_on_evidence_only() {
    let mut forecast = forecast();
    forecast.handle_news(&news(20, LABEL, false, 0, 200));
    let urgencies: Vec<_> =
        (0..100).map(|n| forecast.handle_asked(ms(200 + n), LABEL, 10)).collect();
    assert_eq!(urgencies.iter().filter(|u| **u == Urgency::Now).count(), 1);
    let at = |now, as_of, forecast: &mut Forecast| {
        forecast.ceiling(&question(300, 20, 700), &sight(ms(now), &[peer(ms(as_of))])).0.net
    };
    assert_eq!(at(310, 150, &mut forecast), 500);
    assert!(at(310, 300, &mut forecast) > 900, "the other has told since");
    assert!(at(720, 690, &mut forecast) > 900, "it is no surge any more");
    // Of so much nobody can have taken the rest meanwhile.
    let much = Question { quantity: 100_000, ..question(300, 20, 60_000) };
    let ceiling = forecast.ceiling(&much, &sight(ms(310), &[peer(ms(150))])).0.net;
    assert!((95_000..99_990).contains(&ceiling), "{ceiling}");
}

#[test]
fn a_new_label_begins_without_stop() {
    let mut forecast = forecast();
    forecast.handle_answer(ms(300), LABEL, Ceiling::certain(0), &answered(false, 400));
    forecast.handle_asked(ms(1_000), LABEL.next(), 1);
    assert!(!forecast.has_stopped(LABEL.next()));
}

#[test]
fn a_refusal_of_a_heavy_request_stops_nobody() {
    let mut forecast = forecast();
    for n in 0..40 {
        forecast.handle_asked(ms(n * 5), LABEL, 1);
    }
    let heavy = Answered { cost: 500, passes: false, own_session: 40, region: None };
    let ceiling = Ceiling::certain(100);
    assert_eq!(forecast.handle_answer(ms(210), LABEL, ceiling, &heavy), Urgency::None);
    assert!(!forecast.has_stopped(LABEL));
    let light = Answered { cost: 1, ..heavy };
    assert_eq!(forecast.handle_answer(ms(211), LABEL, ceiling, &light), Urgency::Now);
}

#[test]
fn what_is_claimed_beyond_belief_is_soon_forgotten() {
    for decided_before in [true, false] {
        let mut forecast = forecast();
        if decided_before {
            forecast.ceiling(&question(100, 0, 0), &sight(ms(100), &[]));
        }
        let mut lie = news(COUNT_MAX, LABEL, false, 150, 200);
        lie.note.weight = u32::MAX;
        forecast.handle_news(&lie);
        let next = LABEL.next();
        let ask = |forecast: &mut Forecast, now: u64| {
            let question = Question { label: next, ..question(now - 1_000, 0, 0) };
            forecast.ceiling(&question, &sight(ms(now), &[peer(ms(now - 40))])).0.net
        };
        assert_eq!(ask(&mut forecast, 1_010), 0, "{decided_before}");
        // It tells the truth again.
        for told in (250..=1_800).step_by(50) {
            let label = if told > 1_000 { next } else { LABEL };
            forecast.handle_news(&news(10, label, false, told - 50, told));
        }
        let ceiling = ask(&mut forecast, 1_850);
        assert!(ceiling > 900, "{ceiling} of 1,000, {decided_before}");
    }
}

//! What is charged for a while, places, and commands that are carried out once: what every store makes of them.

use tidegate_core::store::{HOLDS_MAX, Once, Remembered, RequestId};

use super::*;

const LONG: Span = Span::secs(3_600);

impl Subject {
    /// A charge that is held; of caller 1 and up.
    fn held(&self, caller: u64, cost: u64, id: u64, lasts: Span, lapse: Lapse) -> Operation {
        let hold = Some(Terms { id: HoldId(id), lasts, lapse });
        Operation { hold, ..self.charge(caller, 5, cost, 10) }
    }

    fn settle(&self, caller: u64, id: u64, keep: u64) -> Operation {
        let (not_before, not_after) = (StoreTime(0), StoreTime(0));
        let action = Action::Settle { keep };
        let held = self.held(caller, 1, id, Span::ZERO, Lapse::GivenBack);
        Operation { action, not_before, not_after, expires: StoreTime(0), ..held }
    }

    /// A place of four.
    fn a_place(&self, caller: u64, id: u64, lasts: Span) -> Operation {
        let rule = Rule::Concurrency;
        Operation { rule, ceiling: 4, ..self.held(caller, 1, id, lasts, Lapse::GivenBack) }
    }

    async fn counts(&self, caller: u64) -> Counts {
        let peek = Operation { action: Action::Peek, ..self.charge(caller, 5, 1, 0) };
        self.outcome(vec![peek]).await.only().1
    }

    /// Waits until somebody who peeks finds so much used.
    async fn until_used(&self, caller: u64, used: u64) {
        eventually(Duration::from_secs(10), "a hold ends", async || {
            let found = self.counts(caller).await.net();
            ensure(found == used, || format!("{found} are used, not {used}"))
        })
        .await;
    }

    async fn once(
        &self,
        id: u64,
        of: u64,
        refusals: bool,
        operations: Vec<Operation>,
    ) -> StoreReply {
        let once = Once { id: RequestId([7, id]), of, says: id + 1, kept: LONG, refusals };
        let command = StoreCommand { once: Some(once), ..StoreCommand::new(operations) };
        self.store.apply(&command).await.expect("answered")
    }
}

async fn reservations(s: &Subject) {
    let given_back = Lapse::GivenBack;
    // What is held is charged; what is settled keeps its part, and the rest can be spent again.
    assert!(admitted(&s.outcome(vec![s.held(70, 8, 1, LONG, given_back)]).await));
    assert!(!admitted(&s.outcome(vec![s.charge(70, 5, 3, 10)]).await));
    assert!(admitted(&s.outcome(vec![s.settle(70, 1, 3)]).await));
    assert_eq!(s.counts(70).await, Counts { used: 8, refunded: 5 });
    assert!(admitted(&s.outcome(vec![s.charge(70, 5, 7, 10)]).await));
    // It is settled once, and no other is.
    assert!(!admitted(&s.outcome(vec![s.settle(70, 1, 0)]).await));
    assert!(!admitted(&s.outcome(vec![s.settle(70, 2, 0)]).await));
    assert_eq!(s.counts(70).await.net(), 10);

    // Of several, all or none.
    let both = vec![s.held(71, 4, 3, LONG, given_back), s.held(72, 4, 3, LONG, given_back)];
    assert!(admitted(&s.outcome(both).await));
    let wrong = vec![s.settle(71, 3, 0), s.settle(72, 99, 0)];
    assert!(!admitted(&s.outcome(wrong).await));
    assert_eq!((s.counts(71).await.net(), s.counts(72).await.net()), (4, 4));
    assert!(admitted(&s.outcome(vec![s.settle(71, 3, 1), s.settle(72, 3, 9)]).await));
    assert_eq!((s.counts(71).await.net(), s.counts(72).await.net()), (1, 4));

    // What nobody settles ends, in one way or the other; a floor restores what was undone, and not what was
    // given back.
    let short = Span::millis(150);
    assert!(admitted(&s.outcome(vec![s.held(73, 6, 4, short, given_back)]).await));
    assert!(admitted(&s.outcome(vec![s.held(74, 6, 5, short, Lapse::Undone)]).await));
    s.until_used(73, 0).await;
    s.until_used(74, 0).await;
    assert!(!admitted(&s.outcome(vec![s.settle(73, 4, 6)]).await), "its time is over");
    s.outcome(vec![s.heal(73, 5, 6), s.heal(74, 5, 6)]).await;
    assert_eq!(s.counts(73).await, Counts { used: 6, refunded: 6 });
    assert_eq!(s.counts(74).await, Counts { used: 6, refunded: 0 });

    // A label later the rest is given back to the label that it was charged in, and to none after that.
    assert!(admitted(&s.outcome(vec![s.held(75, 6, 6, LONG, given_back)]).await));
    assert!(admitted(&s.outcome(vec![s.charge(75, 6, 10, 10)]).await));
    assert!(admitted(&s.outcome(vec![s.settle(75, 6, 2)]).await));
    assert_eq!((s.used(75, 5).await, s.used(75, 6).await), (2, 10));
    assert!(admitted(&s.outcome(vec![s.held(76, 6, 7, LONG, given_back)]).await));
    assert!(admitted(&s.outcome(vec![s.charge(76, 8, 10, 10)]).await));
    assert!(admitted(&s.outcome(vec![s.settle(76, 7, 0)]).await));
    assert_eq!(s.used(76, 8).await, 10);
}

async fn places(s: &Subject) {
    for id in 1..=4 {
        assert!(admitted(&s.outcome(vec![s.a_place(80, id, LONG)]).await));
    }
    let StoreReply::Done { admitted: false, operations, .. } =
        s.ask(vec![s.a_place(80, 5, LONG)]).await
    else {
        panic!("a fifth of four")
    };
    let weighed = operations[0].weighed.expect("places");
    assert_eq!((weighed.used, operations[0].counts), (4, Counts::default()));
    assert!((LONG.0 - 5_000_000..=LONG.0).contains(&weighed.wait.0), "{weighed:?}");
    // One that is given back can be taken.
    let release = Operation { rule: Rule::Concurrency, ..s.settle(80, 2, 0) };
    assert!(admitted(&s.outcome(vec![release]).await));
    assert!(admitted(&s.outcome(vec![s.a_place(80, 5, Span::millis(150))]).await));
    assert!(!admitted(&s.outcome(vec![s.a_place(80, 6, LONG)]).await));
    // One whose holder is gone as well.
    eventually(Duration::from_secs(10), "a place ends", async || {
        let taken = admitted(&s.outcome(vec![s.a_place(80, 6, LONG)]).await);
        ensure(taken, || "there is none".into())
    })
    .await;
    // A store that has forgotten is told of them, more than there are if need be, and of each once.
    let told = |id: u64| {
        let action = Action::Hold { amount: 2 };
        Operation { action, enforce: false, ..s.a_place(81, id, LONG) }
    };
    assert!(admitted(&s.outcome(vec![told(1), told(2), told(3), told(3)]).await));
    let peek = Operation { action: Action::Peek, ..s.a_place(81, 9, LONG) };
    let StoreReply::Done { operations, .. } = s.ask(vec![peek]).await else { panic!("relabel") };
    assert_eq!(operations[0].weighed.map(|weighed| weighed.used), Some(6));
    assert!(!admitted(&s.outcome(vec![s.a_place(81, 9, LONG)]).await));
}

/// A record holds so many and no more; then nothing is charged that is to be held.
async fn many_holds(s: &Subject) {
    let hold = |id| Operation { ceiling: 9_999, ..s.held(90, 1, id, LONG, Lapse::GivenBack) };
    for from in (1..=HOLDS_MAX as u64).step_by(10) {
        assert!(admitted(&s.outcome((from..from + 10).map(hold).collect()).await));
    }
    let StoreReply::Done { admitted: false, operations, .. } = s.ask(vec![hold(2_000)]).await
    else {
        panic!("there is a place")
    };
    let weighed = operations[0].weighed.expect("it says when there is one");
    assert!(weighed.wait > Span::secs(3_540) && weighed.wait <= LONG, "{weighed:?}");
    assert_eq!((weighed.used, s.counts(90).await.used), (HOLDS_MAX as u64, HOLDS_MAX as u64));
    assert!(admitted(&s.outcome(vec![s.settle(90, 500, 0)]).await));
    assert!(admitted(&s.outcome(vec![hold(2_000)]).await));
    assert!(admitted(&s.outcome(vec![Operation { hold: None, ..hold(1) }]).await));
}

async fn once_only(s: &Subject) {
    let remembered = async |id, of, operations| -> Box<Remembered> {
        match s.once(id, of, true, operations).await {
            StoreReply::Repeated { first, .. } => first,
            other => panic!("{other:?}"),
        }
    };
    let done = |reply: &StoreReply, whether| matches!(reply, StoreReply::Done { admitted, .. } if *admitted == whether);
    // Admitted and refused, each is answered as the first time and charges once.
    let charge = |cost| vec![s.charge(100, 5, cost, 10), s.charge(101, 5, cost, 10)];
    let first = s.once(1, 4, true, charge(6)).await;
    assert!(done(&first, true));
    let StoreReply::Done { operations: replies, now, .. } = first else { panic!("{first:?}") };
    for _ in 0..3 {
        let again = remembered(1, 4, charge(6)).await;
        assert!(again.answer.admitted && again.at == now && again.says == 2);
        let parts = again.answer.operations.into_iter().unzip::<_, _, Vec<_>, Vec<_>>();
        assert_eq!(parts, (vec![Label(5), Label(5)], replies.clone()));
    }
    assert!(done(&s.once(2, 4, true, charge(6)).await, false));
    assert!(!remembered(2, 4, charge(6)).await.answer.admitted);
    assert_eq!((s.counts(100).await.used, s.counts(101).await.used), (6, 6));
    // In another window it is the first one that is told of.
    let later = vec![s.charge(100, 6, 6, 10), s.charge(101, 6, 6, 10)];
    assert_eq!(remembered(1, 4, later).await.answer.operations[0].0, Label(5));
    assert_eq!(s.used(100, 6).await, 0);
    // Under one name only the same is asked for.
    assert!(matches!(s.once(1, 5, true, charge(6)).await, StoreReply::OtherRequest { .. }));
    // What is not to be remembered when it is refused, may be admitted later.
    assert!(done(&s.once(3, 4, false, charge(6)).await, false));
    assert!(done(&s.once(3, 4, false, charge(4)).await, true));
    // What did not fit was not done, and is not remembered.
    let early =
        Operation { not_before: s.clock.steady() + Span::secs(60), ..s.charge(102, 5, 1, 9) };
    let early = s.once(4, 4, true, vec![early]).await;
    assert!(matches!(early, StoreReply::Relabel { .. }), "{early:?}");
    assert!(done(&s.once(4, 4, true, vec![s.charge(102, 5, 1, 9)]).await, true));
    // It is forgotten in time.
    let (id, kept) = (RequestId([7, 9]), Span::millis(150));
    let once = Some(Once { id, of: 1, says: 0, kept, refusals: true });
    eventually(Duration::from_secs(10), "it is charged again", async || {
        let operations = vec![s.charge(103, 5, 1, 10)];
        let command = StoreCommand { once, ..StoreCommand::new(operations) };
        s.store.apply(&command).await.expect("answered");
        let used = s.counts(103).await.used;
        ensure(used >= 2, || format!("{used} are used"))
    })
    .await;
}

#[tokio::test]
async fn every_store_holds() {
    for (kind, mut subject) in Subject::all().await {
        let buckets: &[u16] = if kind == "cluster" { &[0, 1, 3] } else { &[0] };
        for bucket in buckets {
            subject = subject.in_bucket(*bucket);
            reservations(&subject).await;
            places(&subject).await;
            many_holds(&subject).await;
            once_only(&subject).await;
        }
    }
}

#[tokio::test]
async fn a_key_that_holds_something_else_is_told() {
    let s = Subject::redis().await;
    let charge = || vec![s.charge(1, 5, 1, 10)];
    s.once(1, 1, true, charge()).await;
    let mut connection = s.connection().await;
    let keys: Vec<String> =
        redis::cmd("KEYS").arg("test:*once*").query_async(&mut connection).await.expect("keys");
    let [key] = &keys[..] else { panic!("{keys:?}") };
    let () = redis::cmd("SET").arg(key).arg("x").query_async(&mut connection).await.expect("set");
    let once = Some(Once { id: RequestId([7, 1]), of: 1, says: 2, kept: LONG, refusals: true });
    let command = StoreCommand { once, ..StoreCommand::new(charge()) };
    let refused = s.store.apply(&command).await;
    assert!(matches!(refused, Err(StoreError::Record(_))), "{refused:?}");
    assert_eq!(s.counts(1).await.used, 1);
}

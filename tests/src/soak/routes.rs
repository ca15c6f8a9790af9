//! What is asked of the nodes during a soak, and the policies that answer it.

use std::time::Duration;

use crate::labels::Flow;

/// One kind of request, with a policy of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Route {
    /// A global quota that is never reached. Nobody asks for it while the asked node is killed, so what
    /// clients were told must be exactly what is counted.
    Exact,
    /// The same, but asked for also while the node is killed: what it admitted last may be lost.
    Rough,
    /// A regional quota that is never reached, and treated like `Exact`.
    Local,
    /// Short windows that are asked for much too often.
    Busy,
    /// Ever other callers in a short window: cells and records come and go.
    Churn,
}

/// How often a debug build, on a machine that may do a lot else, is asked.
const PACE: u32 = if cfg!(debug_assertions) { 3 } else { 1 };

impl Route {
    pub(super) const ALL: [Self; 5] =
        [Self::Exact, Self::Rough, Self::Local, Self::Busy, Self::Churn];
    /// Those of which a ledger is kept.
    pub(super) const BOOKED: [Self; 3] = [Self::Exact, Self::Rough, Self::Local];

    pub(super) const fn path(self) -> &'static str {
        match self {
            Self::Exact => "/exact",
            Self::Rough => "/rough",
            Self::Local => "/local",
            Self::Busy => "/busy",
            Self::Churn => "/churn",
        }
    }

    /// Who asks: so many different callers.
    pub(super) const fn callers(self) -> u32 {
        match self {
            Self::Exact | Self::Rough | Self::Local => 12,
            Self::Busy => 20,
            Self::Churn => 2_000,
        }
    }

    /// How long the asker of one node pauses between two requests.
    pub(super) fn pause(self) -> Duration {
        PACE * Duration::from_millis(match self {
            Self::Exact => 20,
            Self::Rough | Self::Local => 40,
            Self::Busy => 10,
            Self::Churn => 10,
        })
    }

    /// Whether nobody asks for it while the asked node is killed.
    pub(super) const fn is_quiet_at_kills(self) -> bool {
        matches!(self, Self::Exact | Self::Local)
    }

    pub(super) const fn is_global(self) -> bool {
        matches!(self, Self::Exact | Self::Rough)
    }
}

/// What the limits allow whose windows are added up one by one; it never changes.
pub(super) const BY_WINDOW: u64 = 20;
/// What is asked for of it.
const MULTIPLE: f64 = 2.0;

/// What one of six nodes is asked of it in a second.
pub(super) const ASKED_OF_A_NODE: u64 = 7;

/// The callers whose windows are added up one by one, also while nodes are killed.
pub(super) fn flows() -> [Flow; 2] {
    ["/eventual", "/strict"].map(|route| Flow {
        route: route.into(),
        api_key: "k".into(),
        per_second: MULTIPLE * BY_WINDOW as f64,
    })
}

/// How many cells a node can hold at most for what is asked of so many nodes, in peace: one for each
/// caller and label, until the label has ended, a window has gone by since, and the grace for what comes
/// late, which is two seconds as long as gossip is fast.
pub(super) fn cells_explained(nodes: u32) -> u64 {
    const GRACE: Duration = Duration::from_secs(2);
    let cells = |callers: u64, window: u64| {
        let kept = GRACE + Duration::from_secs(window);
        callers * (kept.as_secs().div_ceil(window) + 1)
    };
    // So many of those that are drawn at random come in a window, and a tenth more.
    let asked = 5_000.0 * f64::from(nodes) / Route::Churn.pause().as_millis() as f64;
    let callers = f64::from(Route::Churn.callers());
    let churn = cells((1.1 * callers * (1.0 - (-asked / callers).exp())) as u64, 5);
    let busy = Route::Busy.callers().into();
    let booked: u32 = Route::BOOKED.map(Route::callers).into_iter().sum();
    // One caller each has what is added up window by window, and the policy that comes and goes.
    let single = 3 * cells(1, 1);
    churn + cells(busy, 1) + cells(busy, 60) + u64::from(booked) + single
}

/// A quantity that no soak reaches, and two others that stand for the same key.
const PLENTY: [u64; 3] = [1_000_000_000, 2_000_000_000, 500_000_000];

/// The policies after so many changes: quantities differ, and a policy comes and goes.
pub(super) fn policies(version: usize) -> String {
    let plenty = PLENTY[version % PLENTY.len()];
    let per_second = [20, 30, 15][version % 3];
    let mut text = String::new();
    // Most of what is global is as it is by default, which is `eventual`.
    const GLOBAL: &str = "scope = \"global\"\n";
    const PLAIN: &str = "scope = \"global\"\nconsistency = \"plain\"\n";
    const STRICT: &str = "scope = \"global\"\nconsistency = \"strict\"\n";
    for (name, scope) in [("exact", GLOBAL), ("rough", PLAIN), ("local", "")] {
        text.push_str(&format!(
            "[[policy]]\nname = \"{name}\"\nmatch = {{ route = \"/{name}\" }}\nkey = [\"api_key\"]\n\
             [[policy.limit]]\nname = \"for-ever\"\nquantity = {plenty}\nwindow = \"400d\"\n\
             {scope}\n"
        ));
    }
    text.push_str(&format!(
        "[[policy]]\nname = \"busy\"\nmatch = {{ route = \"/busy\" }}\nkey = [\"api_key\"]\n\
         [[policy.limit]]\nname = \"per-second\"\nquantity = {per_second}\nwindow = \"1s\"\n\
         {GLOBAL}\
         [[policy.limit]]\nname = \"per-minute\"\nquantity = 600\nwindow = \"1m\"\n\n\
         [[policy]]\nname = \"churn\"\nmatch = {{ route = \"/churn\" }}\nkey = [\"api_key\"]\n\
         [[policy.limit]]\nname = \"burst\"\nquantity = 2\nwindow = \"5s\"\n{PLAIN}\n"
    ));
    for (name, scope) in [("eventual", GLOBAL), ("strict", STRICT)] {
        text.push_str(&format!(
            "[[policy]]\nname = \"{name}\"\nmatch = {{ route = \"/{name}\" }}\nkey = [\"api_key\"]\n\
             [[policy.limit]]\nname = \"per-second\"\nquantity = {BY_WINDOW}\nwindow = \"1s\"\n{scope}\n"
        ));
    }
    if version % 2 == 1 {
        text.push_str(
            "[[policy]]\nname = \"fleeting\"\nmatch = { route = \"/busy\" }\nkey = []\n\
             [[policy.limit]]\nname = \"all\"\nquantity = 1_000\nwindow = \"1s\"\n",
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use tidegate_core::policy::PolicySet;

    use super::*;

    #[test]
    fn every_version_is_right_and_each_route_has_a_policy() {
        for version in 0..6 {
            let set = PolicySet::parse(&policies(version)).expect("no mistake");
            for route in Route::ALL {
                let attributes = [("api_key", "k"), ("route", route.path())];
                assert!(set.matching(&attributes).count() >= 1, "{route:?}");
            }
            for flow in flows() {
                let attributes = [("api_key", "k"), ("route", &*flow.route)];
                // Windows are told apart by their label alone.
                assert_eq!(set.matching(&attributes).count(), 1, "{flow:?}");
            }
        }
    }
}

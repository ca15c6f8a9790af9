//! What is asked of the nodes during a soak, and the policies that answer it.

use std::time::Duration;

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

/// A quantity that no soak reaches, and two others that stand for the same key.
const PLENTY: [u64; 3] = [1_000_000_000, 2_000_000_000, 500_000_000];

/// The policies after so many changes: quantities differ, and a policy comes and goes.
pub(super) fn policies(version: usize) -> String {
    let plenty = PLENTY[version % PLENTY.len()];
    let per_second = [20, 30, 15][version % 3];
    let mut text = String::new();
    const GLOBAL: &str = "scope = \"global\"\nconsistency = \"plain\"\n";
    for (name, scope) in [("exact", GLOBAL), ("rough", GLOBAL), ("local", "")] {
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
         [[policy.limit]]\nname = \"burst\"\nquantity = 2\nwindow = \"5s\"\n{GLOBAL}\n"
    ));
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
        }
    }
}

//! The endpoints for operators.

use crate::api::{
    Admin, ClusterView, ConnectionState, Fault, FaultControl, FaultView, NodeView, Readiness,
    RegionView, UnknownRegion, admin_service,
};

use super::*;

#[derive(Default)]
struct Node {
    unready: bool,
    faults: Option<Faults>,
}

/// Knows one other region, `us`, whose baseline is a delay of 40 ms.
#[derive(Default)]
struct Faults(Mutex<Fault>);

impl FaultControl for Faults {
    fn set(&self, to: &str, fault: Fault) -> Result<(), UnknownRegion> {
        if !["us", "*"].contains(&to) {
            return Err(UnknownRegion(to.into()));
        }
        *self.0.lock() = fault;
        Ok(())
    }

    fn table(&self) -> Vec<FaultView> {
        let fault = *self.0.lock();
        vec![FaultView {
            to: "us".into(),
            cut: fault.cut.unwrap_or_default(),
            delay_ms: fault.delay_ms.unwrap_or(40.0),
            jitter_ms: fault.jitter_ms.unwrap_or_default(),
            loss: fault.loss.unwrap_or_default(),
        }]
    }

    fn clear(&self) {
        *self.0.lock() = Fault::default();
    }
}

impl Admin for Node {
    fn ready(&self) -> Readiness {
        Readiness {
            ready: !self.unready,
            store: "ok".into(),
            sync: "done".into(),
            peers: [
                ("us".to_owned(), ConnectionState::Connected),
                ("ap".to_owned(), ConnectionState::Missing),
            ]
            .into(),
            reasons: Vec::new(),
        }
    }

    fn cluster(&self) -> ClusterView {
        let node = NodeView {
            node: "us-0".into(),
            address: "127.0.0.1:7956".into(),
            state: ConnectionState::HalfOpen,
            policy_hash: None,
        };
        let region = RegionView {
            region: "us".into(),
            state: ConnectionState::HalfOpen,
            staleness_ms: Some(140),
            rtt_ms: Some(80),
            clock_offset_ms: Some(-3),
            nodes: vec![node],
        };
        ClusterView {
            region: "eu".into(),
            node: "eu-0".into(),
            boot: 1_700_000_000_000,
            version: "0.1.0".into(),
            policy_hash: "00112233aabbccdd".into(),
            agree: true,
            regions: vec![region],
        }
    }

    fn faults(&self) -> Option<&dyn FaultControl> {
        self.faults.as_ref().map(|faults| faults as &dyn FaultControl)
    }

    fn render_metrics(&self) -> String {
        "tidegate_keys 9\n".into()
    }
}

fn front(node: Node) -> Front {
    admin_service(Arc::new(node))
}

async fn put(front: &Front, body: &str) -> Reply {
    let request = Request::put("/v1/faults").body(Body::from(body.to_owned())).unwrap();
    send(front.clone(), request).await
}

#[tokio::test]
async fn health_and_readiness_are_two_questions() {
    let unready = front(Node { unready: true, ..Node::default() });
    assert_eq!(get(&unready, "/healthz").await.status, 200);
    assert_eq!(get(&unready, "/readyz").await.status, 503);
    let reply = get(&front(Node::default()), "/readyz").await;
    assert_eq!(reply.status, 200);
    let expected = concat!(
        r#"{"ready":true,"store":"ok","sync":"done","#,
        r#""peers":{"ap":"missing","us":"connected"},"reasons":[]}"#
    );
    assert_eq!(reply.body, expected);
}

#[tokio::test]
async fn the_cluster_is_shown() {
    let expected = concat!(
        r#"{"region":"eu","node":"eu-0","boot":1700000000000,"version":"0.1.0","#,
        r#""policy_hash":"00112233aabbccdd","agree":true,"regions":[{"region":"us","#,
        r#""state":"half_open","staleness_ms":140,"rtt_ms":80,"clock_offset_ms":-3,"#,
        r#""nodes":[{"node":"us-0","address":"127.0.0.1:7956","state":"half_open","#,
        r#""policy_hash":null}]}]}"#
    );
    assert_eq!(get(&front(Node::default()), "/v1/cluster").await.body, expected);
}

#[tokio::test]
async fn metrics_are_text() {
    let reply = get(&front(Node::default()), "/metrics").await;
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    assert_eq!(reply.header("content-type"), Some(kind));
    assert_eq!(reply.body, "tidegate_keys 9\n");
}

#[tokio::test]
async fn faults_are_set_read_and_cleared() {
    let front = front(Node { faults: Some(Faults::default()), ..Node::default() });
    let table = |cut, delay_ms: f64, loss: f64| {
        serde_json::json!({"faults": [
            {"to": "us", "cut": cut, "delay_ms": delay_ms, "jitter_ms": 0.0, "loss": loss}
        ]})
    };
    assert_eq!(get(&front, "/v1/faults").await.json(), table(false, 40.0, 0.0));
    let reply = put(&front, r#"{"to":"us","cut":true,"delay_ms":82.5,"loss":0.01}"#).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.json(), table(true, 82.5, 0.01));
    let reply = put(&front, r#"{"to":"*","loss":1}"#).await;
    assert_eq!(reply.json(), table(false, 40.0, 1.0), "what is absent returns to the baseline");
    let request = Request::delete("/v1/faults").body(Body::empty()).unwrap();
    assert_eq!(send(front.clone(), request).await.json(), table(false, 40.0, 0.0));
    assert_eq!(get(&front, "/v1/faults").await.json(), table(false, 40.0, 0.0));
}

#[tokio::test]
async fn bad_faults_are_refused() {
    let front = front(Node { faults: Some(Faults::default()), ..Node::default() });
    assert_eq!(put(&front, r#"{"to":"mars","cut":true}"#).await.problem(), (404, vec![]));
    for body in ["", "{}", r#"{"cut":true}"#, r#"{"to":"us","x":1}"#, r#"{"to":"us","cut":1}"#] {
        assert_eq!(put(&front, body).await.problem(), (400, vec!["body".into()]), "{body}");
    }
    let reply = put(&front, r#"{"to":"us","delay_ms":60001,"jitter_ms":-1,"loss":1.1}"#).await;
    let fields = ["delay_ms", "jitter_ms", "loss"].map(String::from).to_vec();
    assert_eq!(reply.problem(), (400, fields));
    assert_eq!(get(&front, "/v1/faults").await.json()["faults"][0]["cut"], false);
}

#[tokio::test]
async fn faults_are_not_there_unless_enabled() {
    let front = front(Node::default());
    assert_eq!(get(&front, "/v1/faults").await.problem(), (404, vec![]));
    assert_eq!(put(&front, r#"{"to":"us","cut":true}"#).await.problem(), (404, vec![]));
    let request = Request::delete("/v1/faults").body(Body::empty()).unwrap();
    assert_eq!(send(front, request).await.problem(), (404, vec![]));
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems_here_too() {
    let front = front(Node::default());
    assert_eq!(get(&front, "/v1/check").await.problem(), (404, vec![]));
    assert_eq!(post(&front, "/metrics", "").await.problem(), (405, vec![]));
}

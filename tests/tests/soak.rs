//! A short soak; `scripts/soak` runs long ones.

use std::time::Duration;

use tidegate_tests::soak::Soak;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_random_faults_the_cluster_counts_what_clients_were_told() {
    let soak = Soak { duration: Duration::from_secs(20), seed: 4 };
    let report = Box::pin(soak.run()).await;
    assert!(report.broken.is_empty(), "{report:#?}");
}

//! What is stated of connections changes while requests are under way.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::rig::{Rig, web};
use super::{exchange, said};

/// A rule for `web`: one connection of HTTP/2, and this besides.
fn one_connection(stated: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: web, namespace: \
         shop}}\nspec:\n  host: web\n  trafficPolicy: {{connectionPool: {{tcp: {{maxConnections: 1, connectTimeout: 3s}}, http: \
         {{h2UpgradePolicy: UPGRADE{stated}}}}}}}\n"
    )
}

fn asked(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n")
}

#[tokio::test(start_paused = true)]
async fn a_long_answer_on_the_only_connection_keeps_nobody_waiting_when_another_thing_is_stated() {
    let mut rig = Rig::new(&web(1, &[]));
    rig.states(&one_connection(""));
    let (begun, end) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let told = (begun.clone(), end.clone());
    rig.listens_in_place(1, move |request| {
        let (begun, end) = told.clone();
        async move {
            if request.uri().path() == "/long" {
                begun.notify_one();
                end.notified().await;
            }
            said(request.uri().path().to_owned())
        }
    })
    .await;
    let client = rig.client();
    let long = tokio::spawn(async move { exchange(client, &asked("/long")).await });
    begun.notified().await;
    for stated in [", idleTimeout: 7s", ", idleTimeout: 8s"] {
        rig.states(&one_connection(stated));
        let began = Instant::now();
        let answer = exchange(rig.client(), &asked("/short")).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("/short"), "{answer}");
        assert_eq!((began.elapsed().as_secs(), rig.cluster().in_use().connections), (0, 1));
    }
    end.notify_one();
    let answer = long.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("/long"), "{answer}");
    // Nobody asks any more, and it does not stay.
    rig.limited().sweep(Instant::now());
    let ended = async {
        while rig.cluster().in_use().connections > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(std::time::Duration::from_secs(1), ended).await.expect("its place is free");
}

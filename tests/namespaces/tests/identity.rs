//! Identity: whoever calls, from wherever, at an address that was somebody else's: it is always the pod's own.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use ebb_tests::{app::App, mesh::Mesh, peer::at};
use harness::{kubelet::Address, report::Described};
use rand::Rng;

const ACCOUNTS: usize = 8;
const ROUNDS: usize = 6;
const CALLS_PER_ROUND: usize = 64;
const AT_A_TIME: usize = 8;
const ANSWER: Duration = Duration::from_secs(5);

fn name(account: usize) -> String {
    format!("acc{account}")
}

/// Who may call whom, by policy: half of all pairs.
fn allowed(caller: usize, callee: usize) -> bool {
    (caller + callee).is_multiple_of(2)
}

fn policy(callee: usize) -> String {
    let principals = (0..ACCOUNTS).filter(|caller| allowed(*caller, callee));
    let principals: Vec<_> =
        principals.map(|caller| format!("cluster.local/ns/shop/sa/{}", name(caller))).collect();
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: to-{0}, namespace: shop}}\nspec:\n  \
         selector: {{matchLabels: {{app: {0}}}}}\n  action: ALLOW\n  rules: [{{from: [{{source: {{principals: [{1}]}}}}]}}]\n",
        name(callee),
        principals.join(", ")
    )
}

/// One call; what comes back, if anything does, must be from the right pod about the right caller.
fn call(mesh: &Mesh, caller: usize, (callee, to): (usize, SocketAddr)) -> Result<()> {
    let from = mesh.pod(&name(caller))?;
    let what = || format!("{} calls {} at {to}", name(caller), name(callee));
    let answer = from.namespace().http_get(to, &format!("/{}", mesh.marker()), ANSWER);
    if !allowed(caller, callee) {
        ensure!(answer.is_err(), "{} and gets {answer:?}", what());
        return Ok(());
    }
    let (status, body) = answer.with_context(what)?;
    let described: Described = serde_json::from_str(&body).with_context(|| format!("{}: {body}", what()))?;
    ensure!(status == 200 && described.name.starts_with(&name(callee)), "{}: {body}", what());
    ensure!(
        from.addresses().both().contains(&described.peer.ip()),
        "{}: the server sees {}",
        what(),
        described.peer
    );
    Ok(())
}

fn crossfire(mesh: &Mesh, targets: &[(usize, SocketAddr)]) -> Result<()> {
    let mut random = rand::rng();
    let calls: Vec<_> = (0..CALLS_PER_ROUND)
        .map(|_| (random.random_range(0..ACCOUNTS), targets[random.random_range(0..targets.len())]))
        .filter(|(caller, _)| mesh.pod(&name(*caller)).is_ok())
        .collect();
    for batch in calls.chunks(AT_A_TIME) {
        std::thread::scope(|scope| -> Result<()> {
            let running: Vec<_> =
                batch.iter().map(|(caller, target)| scope.spawn(|| call(mesh, *caller, *target))).collect();
            running.into_iter().try_for_each(|call| call.join().unwrap_or_else(|_| anyhow::bail!("a panic")))
        })?;
    }
    Ok(())
}

/// Every address that runs now, with the account it belongs to.
fn targets(mesh: &Mesh) -> Vec<(usize, SocketAddr)> {
    let of = |account: usize| {
        let replicas = mesh.kubelet().replicas("shop", &name(account));
        replicas.iter().flat_map(move |replica| replica.pod().addresses().both().map(|ip| (account, at(ip))))
    };
    (0..ACCOUNTS).flat_map(of).collect()
}

/// The pod of `from` goes and its addresses are given to one more pod of `to`, whose account is another.
fn give_addresses(mesh: &mut Mesh, from: usize, to: usize) -> Result<()> {
    let addresses = mesh.pod(&name(from))?.addresses();
    mesh.kubelet_mut().scale("shop", &name(from), 0)?;
    mesh.kubelet_mut().hand_down(addresses, "shop", &name(to));
    mesh.kubelet_mut().scale("shop", &name(to), 2)?;
    mesh.settle()
}

fn take_addresses_back(mesh: &mut Mesh, from: usize, to: usize) -> Result<()> {
    let addresses = mesh.kubelet().replicas("shop", &name(to))[1].pod().addresses();
    mesh.kubelet_mut().scale("shop", &name(to), 1)?;
    mesh.kubelet_mut().hand_down(addresses, "shop", &name(from));
    mesh.kubelet_mut().scale("shop", &name(from), 1)?;
    mesh.settle()
}

#[test]
fn in_a_crossfire_of_accounts_and_recreated_pods_no_disallowed_pair_gets_a_byte() -> Result<()> {
    let mut mesh = Mesh::start()?;
    let policies: Vec<_> = (0..ACCOUNTS).map(policy).collect();
    mesh.apply("60-pairs.yaml", &policies.join("---\n"))?;
    let apps: Vec<_> =
        (0..ACCOUNTS).map(|account| App::new(&name(account)).on(account % 4 / 2).http()).collect();
    mesh.run(&apps)?;
    crossfire(&mesh, &targets(&mesh))?;
    for round in 0..ROUNDS {
        let account = rand::rng().random_range(0..ACCOUNTS);
        // One of the other half: what was allowed to reach the address no longer is, and the other way round.
        let other = (account + 1) % ACCOUNTS;
        if round % 3 == 2 {
            give_addresses(&mut mesh, account, other).with_context(|| format!("round {round}"))?;
            crossfire(&mesh, &targets(&mesh)).with_context(|| format!("round {round}, another account"))?;
            take_addresses_back(&mut mesh, account, other)?;
        } else {
            let old = mesh.replica(&name(account))?.name().to_owned();
            let address = if round % 3 == 0 { Address::Same } else { Address::New };
            mesh.kubelet_mut().recreate("shop", &old, address)?;
            mesh.settle()?;
        }
        crossfire(&mesh, &targets(&mesh)).with_context(|| format!("round {round} with {}", name(account)))?;
    }
    identities_are_the_pods_own(&mesh)?;
    mesh.finish()
}

/// In every line of both logs that names a workload and an identity, they belong together.
fn identities_are_the_pods_own(mesh: &Mesh) -> Result<()> {
    let mut seen = 0;
    for line in mesh.log_lines("connection complete")? {
        for end in ["src", "dst"] {
            let (Some(workload), Some(identity)) =
                (field(&line, &format!("{end}.workload")), field(&line, &format!("{end}.identity")))
            else {
                continue;
            };
            let account = workload.split('-').next().unwrap_or_default();
            ensure!(identity == format!("spiffe://cluster.local/ns/shop/sa/{account}"), "{line}");
            seen += 1;
        }
    }
    ensure!(seen > CALLS_PER_ROUND, "only {seen} identities in the logs");
    Ok(())
}

fn field<'l>(line: &'l str, name: &str) -> Option<&'l str> {
    let (_, rest) = line.split_once(&format!(" {name}=\""))?;
    Some(rest.split_once('"')?.0)
}

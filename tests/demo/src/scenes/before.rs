//! Before enrolment: a request between two nodes, read on the wire.
//!
//! Both proxies already run. That they leave alone what is not labelled is part of what is shown.

use std::net::IpAddr;

use anyhow::{Result, ensure};

use crate::{
    screen::{Claim, Facts, Row},
    sight::{SERVER_PORT, Sight, TUNNEL_PORT},
    stage::{CLIENT, Stage, WEB_V2, marker},
};

struct Before {
    path: String,
    server: String,
    client: IpAddr,
    client_as_seen: IpAddr,
    sight: Sight,
}

/// Makes one call from `client` to `web-v2` and looks for it on the wire.
pub(super) fn play(stage: &mut Stage) -> Result<Box<dyn Facts>> {
    let marker = marker("card")?;
    let path = format!("/checkout?number={marker}");
    stage.watch_wire()?;
    let reply = stage.call(CLIENT, WEB_V2, &path)?;
    ensure!(reply.status == 200, "the call got status {}", reply.status);
    let described = reply.described()?;
    Ok(Box::new(Before {
        path,
        server: described.name,
        client: stage.address(CLIENT)?,
        client_as_seen: described.peer.ip(),
        sight: stage.sight(&marker)?,
    }))
}

impl Facts for Before {
    fn rows(&self) -> Vec<Row> {
        let read = self.sight.line.as_ref().map_or("nothing".to_owned(), ToString::to_string);
        vec![
            Row::fact("client calls web-v2", format!("GET {}", self.path)),
            Row::fact("200 from", format!("{}, which saw {}", self.server, self.client_as_seen)),
            Row::fact("read between the nodes", read),
            Row::fact("packets there", self.sight.by_port()),
        ]
    }

    fn claims(&self) -> Vec<Claim> {
        let line = self.sight.line.as_ref().map(|line| line.text.as_str()).unwrap_or_default();
        let in_clear = self.sight.readable && line.contains(&self.path);
        let direct = self.sight.packets(SERVER_PORT) > 0 && self.sight.packets(TUNNEL_PORT) == 0;
        vec![
            Claim::new("the request was captured word for word between the nodes", in_clear),
            Claim::new("it went straight to the server; no tunnel was involved", direct),
            Claim::new("the server saw the client's own address", self.client == self.client_as_seen),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sight::ReadLine;

    fn facts() -> Before {
        let (source, destination) = ("10.244.1.2:40000".parse().unwrap(), "10.244.2.2:8080".parse().unwrap());
        let text = "GET /checkout?number=card-1 HTTP/1.1".to_owned();
        Before {
            path: "/checkout?number=card-1".into(),
            server: "web-v2-x".into(),
            client: "10.244.1.2".parse().unwrap(),
            client_as_seen: "10.244.1.2".parse().unwrap(),
            sight: Sight {
                line: Some(ReadLine { source, destination, text }),
                readable: true,
                ports: [(8080, 9)].into(),
                ..Sight::default()
            },
        }
    }

    fn holds(facts: &Before) -> Vec<bool> {
        facts.claims().iter().map(|claim| claim.holds).collect()
    }

    #[test]
    fn a_request_that_was_read_bears_out_every_claim() {
        assert_eq!(holds(&facts()), [true, true, true]);
    }

    #[test]
    fn each_claim_fails_with_its_fact() {
        let unread = Before { sight: Sight { ports: [(8080, 9)].into(), ..Sight::default() }, ..facts() };
        assert_eq!(holds(&unread), [false, true, true]);
        let mut tunnelled = facts();
        tunnelled.sight.ports.insert(15008, 3);
        assert_eq!(holds(&tunnelled), [true, false, true]);
        let disguised = Before { client_as_seen: "172.30.0.1".parse().unwrap(), ..facts() };
        assert_eq!(holds(&disguised), [true, true, false]);
    }
}

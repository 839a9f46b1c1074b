//! Why a rule does not match, for whoever asks: the first of its fields that is not as asked. Decides nothing.

use common::config::path_template::PathTemplate;
use common::config::security::{self, Asked, PathMatch, RequestPrincipal, Strings};
use common::explain::unmet::{List, Unmet, VALUES, caller, first, string};

use super::*;

impl Policy {
    /// Why a rule of it, which was stated so, does not match; `None` where it does.
    pub(crate) fn unmet(&self, at: usize, stated: &security::Rule, facts: &Facts<'_>) -> Option<Unmet> {
        self.rules.get(at)?.unmet(stated, facts, self.action == PolicyAction::Allow)
    }
}

impl Rule {
    fn unmet(&self, stated: &security::Rule, facts: &Facts<'_>, lets_in: bool) -> Option<Unmet> {
        if lets_in && self.needs_http && facts.http.is_none() {
            let from = stated.from.iter().position(security::Source::needs_http);
            let to = stated.to.iter().position(security::Operation::needs_http);
            let field = from.map(|at| format!("from[{at}].source"));
            let field =
                field.or(to.map(|at| format!("to[{at}].operation"))).unwrap_or_else(|| "when".to_owned());
            let says = "asks for what only a request of HTTP shows, so that the rule lets nobody in here";
            return Some(Unmet { field, says: says.to_owned() });
        }
        let from: Vec<_> = self.from.iter().zip(&stated.from).collect();
        let to: Vec<_> = self.to.iter().zip(&stated.to).collect();
        first(&from, |(it, stated)| it.unmet(stated, facts), |at| format!("from[{at}].source"))
            .or_else(|| {
                first(&to, |(it, stated)| it.unmet(stated, facts), |at| format!("to[{at}].operation"))
            })
            .or_else(|| {
                let mut when = self.when.iter().zip(&stated.when).enumerate();
                when.find_map(|(at, (it, stated))| {
                    Some(it.unmet(stated, facts, lets_in)?.within(format!("when[{at}]")))
                })
            })
    }
}

fn list<'r, T, U>(names: [&'static str; 2], asked: &'r Asked<T>, stated: &'r Asked<U>) -> List<'r, T, U> {
    List { names, asked, stated }
}

impl Source {
    fn unmet(&self, stated: &security::Source, facts: &Facts<'_>) -> Option<Unmet> {
        let identity = facts.identity;
        let who = || caller(identity);
        list(["principals", "notPrincipals"], &self.principals, &stated.principals)
            .unmet(who, |want| identity.is_some_and(|it| want.is(it)), string)
            .or_else(|| {
                list(["namespaces", "notNamespaces"], &self.namespaces, &stated.namespaces).unmet(
                    who,
                    |want| identity.is_some_and(|it| in_namespace(want, it)),
                    string,
                )
            })
            .or_else(|| {
                list(["serviceAccounts", "notServiceAccounts"], &self.accounts, &stated.service_accounts)
                    .unmet(who, |want| identity.is_some_and(|it| is_account(want, it)), ToString::to_string)
            })
            .or_else(|| addresses(["ipBlocks", "notIpBlocks"], &self.addresses, facts.source))
            .or_else(|| {
                if self.remote.is_empty() {
                    return None;
                }
                addresses(["remoteIpBlocks", "notRemoteIpBlocks"], &self.remote, remote::address(facts))
            })
            .or_else(|| {
                let http = facts.http.as_ref()?;
                tokens(["requestPrincipals", "notRequestPrincipals"], &self.tokens, http.claims)
            })
    }
}

impl Operation {
    fn unmet(&self, stated: &security::Operation, facts: &Facts<'_>) -> Option<Unmet> {
        port(["ports", "notPorts"], &self.ports, facts.port).or_else(|| {
            let request = &facts.http.as_ref()?.request;
            list(["methods", "notMethods"], &self.methods, &stated.methods)
                .unmet(
                    || format!("the method {}", request.method),
                    |it| fits(it, request.method.as_bytes()),
                    string,
                )
                .or_else(|| {
                    list(["paths", "notPaths"], &self.paths, &stated.paths).unmet(
                        || format!("the path {}", request.path),
                        |it| it.fits(request.path),
                        path,
                    )
                })
                .or_else(|| hosts(["hosts", "notHosts"], &self.hosts, &stated.hosts, request.authority))
        })
    }
}

impl Condition {
    fn unmet(&self, stated: &security::Condition, facts: &Facts<'_>, lets_in: bool) -> Option<Unmet> {
        let identity = facts.identity;
        let who = || caller(identity);
        match (self, stated) {
            (Self::SourceIp(asked), _) => addresses(VALUES, asked, facts.source),
            (Self::DestinationIp(asked), _) => {
                let says = || format!("the address {}", facts.destination);
                list(VALUES, asked, asked).unmet(
                    says,
                    |net| net.contains(&facts.destination),
                    ToString::to_string,
                )
            }
            (Self::RemoteIp(asked), _) => addresses(VALUES, asked, remote::address(facts)),
            (Self::SourceNamespace(asked), _) => list(VALUES, asked, asked).unmet(
                who,
                |want| identity.is_some_and(|it| in_namespace(want, it)),
                string,
            ),
            (Self::SourcePrincipal(asked), security::Condition::SourcePrincipal(stated)) => {
                list(VALUES, asked, stated).unmet(who, |want| identity.is_some_and(|it| want.is(it)), string)
            }
            (Self::SourceAccount(asked), _) => list(VALUES, asked, asked).unmet(
                who,
                |want| identity.is_some_and(|it| is_account(want, it)),
                ToString::to_string,
            ),
            (Self::DestinationPort(asked), _) => port(VALUES, asked, facts.port),
            (Self::ServerName(asked), _) => {
                let name = facts.server_name.unwrap_or_default();
                let says = || {
                    if name.is_empty() {
                        "no server name".to_owned()
                    } else {
                        format!("the server name {name}")
                    }
                };
                list(VALUES, asked, asked).unmet(says, |it| fits(it, name.as_bytes()), string)
            }
            (Self::Unknown, _) => lets_in.then(|| Unmet {
                field: "key".to_owned(),
                says: "asks for what nobody here says".to_owned(),
            }),
            (of_request, stated) => of_request.unmet_by(stated, facts.http.as_ref()?),
        }
    }

    /// The same of what only a request has.
    fn unmet_by(&self, stated: &security::Condition, http: &HttpFacts<'_>) -> Option<Unmet> {
        let request = &http.request;
        match (self, stated) {
            (Self::Authority(asked), security::Condition::Header { values, .. }) => {
                hosts(VALUES, asked, values, request.authority)
            }
            (Self::Method(asked), _) => {
                let says = || format!("the method {}", request.method);
                list(VALUES, asked, asked).unmet(says, |it| fits(it, request.method.as_bytes()), string)
            }
            (Self::Header(name, asked), _) => list(VALUES, asked, asked).unmet(
                || match request.headers.contains_key(name) {
                    // It may be a secret.
                    true => format!("the value of the header {name}"),
                    false => format!("the header {name}, which is not there,"),
                },
                |it| match it {
                    StringMatch::Presence => request.headers.contains_key(name),
                    it => request.values(name).any(|value| fits(it, value)),
                },
                string,
            ),
            (Self::Token(asked), _) => tokens(VALUES, asked, http.claims),
            (Self::Audiences(asked), _) => claimed(&["aud"], asked, http.claims),
            (Self::Presenter(asked), _) => claimed(&["azp"], asked, http.claims),
            (Self::Claim(path, asked), _) => claimed(path, asked, http.claims),
            _ => None,
        }
    }
}

fn addresses(names: [&'static str; 2], asked: &Addresses, address: IpAddr) -> Option<Unmet> {
    let says = || format!("the caller's address {address}");
    list(names, asked, asked).unmet(says, |net| net.contains(&address), ToString::to_string)
}

fn port(names: [&'static str; 2], asked: &Ports, port: u16) -> Option<Unmet> {
    list(names, asked, asked).unmet(|| format!("the port {port}"), |it| *it == port, ToString::to_string)
}

fn hosts(names: [&'static str; 2], asked: &Asked<Host>, stated: &Strings, authority: &str) -> Option<Unmet> {
    list(names, asked, stated).unmet(|| format!("the host {authority}"), |it| it.fits(authority), string)
}

fn path(stated: &PathMatch) -> String {
    match stated {
        PathMatch::Text(text) => string(text),
        PathMatch::Template(template) => PathTemplate::to_string(template),
    }
}

/// What a request without a verified token is called.
const NO_TOKEN: &str = "the request, which has no verified token,";

fn tokens(names: [&'static str; 2], asked: &RequestPrincipals, claims: Option<&Claims>) -> Option<Unmet> {
    let text = |name: &str| claims?.get(name)?.as_str();
    let says = || match text("iss").zip(text("sub")) {
        Some((issuer, subject)) => format!("the token of {issuer}/{subject}"),
        None => NO_TOKEN.to_owned(),
    };
    let is = |it: &RequestPrincipal| token(&one(it), claims);
    list(names, asked, asked).unmet(says, is, |it| format!("{}/{}", string(&it.issuer), string(&it.subject)))
}

fn claimed<S: AsRef<str>>(path: &[S], asked: &Strings, claims: Option<&Claims>) -> Option<Unmet> {
    let says = || match claims {
        Some(_) => format!("the claim {}", path.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(".")),
        None => NO_TOKEN.to_owned(),
    };
    list(VALUES, asked, asked).unmet(says, |it| claim(path, &one(it), claims), string)
}

/// One entry, as if nothing else were asked.
fn one<T: Clone>(it: &T) -> Asked<T> {
    Asked { any: Box::new([it.clone()]), none: Box::default() }
}

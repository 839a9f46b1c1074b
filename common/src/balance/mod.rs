//! temp
use crate::snapshot::Endpoints;
use crate::snapshot::model::*;
use rand::Rng;
use std::{net::IpAddr, sync::Arc};
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    V4,
    V6,
}
impl Family {
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}
pub struct Caller<'a> {
    pub workload: &'a Workload,
    pub family: Family,
}
pub fn choose<'a>(
    _s: &Service,
    eps: &'a Endpoints,
    c: &Caller<'_>,
    port: u16,
    rng: &mut impl Rng,
) -> Option<&'a Arc<Endpoint>> {
    let v: Vec<_> =
        eps.iter().filter(|e| Family::of(e.address) == c.family && e.target_port(port).is_some()).collect();
    if v.is_empty() { None } else { Some(v[rng.random_range(0..v.len())]) }
}

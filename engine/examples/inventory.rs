//! A shop's stock, many concurrent buyers, and leaders that fail in the middle of their sales: never
//! oversold, never lost.
//!
//! A sale is a compare-and-set of the stock. When a leader fails, the outcome of the sales in flight there is
//! unknown: they may or may not have happened. Each is a [`raftwerk::kv::Once`], so it is sent again until it
//! is answered, and takes one piece however often it was sent.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

#[path = "cluster/mod.rs"]
mod cluster;

use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};

use raftwerk::ReadError;
use raftwerk::kv::codec::Swap;
use raftwerk::kv::{Client, StoreError};

use cluster::Cluster;

const ITEM: &[u8] = b"umbrella";
const STOCK: u64 = 120;
const BUYERS: u64 = 6;
const LEADERS_LOST: u64 = 2;

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let cluster = Cluster::start()?;
    cluster.anywhere(|store| store.put(ITEM, STOCK.to_string().as_bytes()).wait());
    println!("{STOCK} umbrellas, {BUYERS} buyers");

    let sold = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..BUYERS {
            scope.spawn(|| buy_until_sold_out(&cluster, &sold));
        }
        for nth in 1..=LEADERS_LOST {
            // The first leader is closed early in the sale, the next when a good part is sold.
            while sold.load(Ordering::Relaxed) < nth * STOCK / (LEADERS_LOST + 2) {
                std::thread::yield_now();
            }
            let lost = cluster.lose_leader();
            println!("a leader is gone, in the middle of sales ({nth} of {LEADERS_LOST})");
            if let Err(error) = cluster.open(lost) {
                println!("{lost} does not come back: {error}");
            }
        }
    });

    let left = cluster.anywhere(stock);
    let sold = sold.into_inner();
    println!("sold {sold}, left {left}");
    assert_eq!((sold, left), (STOCK, 0), "every piece was sold once");
    Ok(())
}

/// Buys one piece after another, each exactly once, until there are none.
fn buy_until_sold_out(cluster: &Cluster, sold: &AtomicU64) {
    let client = Client::new();
    cluster.anywhere(|store| client.register(store, ITEM).wait());
    loop {
        // Strong, though any level would be safe: a stale number only makes the sale fail.
        let stock = cluster.anywhere(stock);
        if stock == 0 {
            return;
        }
        if let Ok(true) = buy_one(cluster, &client, stock) {
            sold.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Whether this buyer got the piece; another may have been faster.
fn buy_one(cluster: &Cluster, client: &Client, stock: u64) -> Result<bool, StoreError> {
    let (before, after) = (stock.to_string(), (stock - 1).to_string());
    let (before, after) = (before.as_bytes(), after.as_bytes());
    let stores = cluster.stores();
    let map = stores.first().ok_or(StoreError::Read(ReadError::Closed))?;
    let sale = client.compare_and_set(map, ITEM, Some(before), Some(after))?;
    // Sent again after an unknown outcome, as after a refusal.
    let swap = cluster.anywhere(|store| sale.send(store).wait());
    Ok(swap == Swap::Applied)
}

fn stock(store: &raftwerk::kv::Store) -> Result<u64, StoreError> {
    let found = store.get(ITEM).wait()?;
    let text = found.map(|found| String::from_utf8_lossy(&found.value).into_owned());
    Ok(text.and_then(|text| text.parse().ok()).unwrap_or(0))
}

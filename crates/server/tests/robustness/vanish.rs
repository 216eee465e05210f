//! Subscribers that vanish in the middle of a broadcast, without a word.

use super::{Ledger, expect_number, publish_number, reset};
use crate::support::{Server, eventually, one_app};

const PUBLISHED: usize = 300;
const STAYING: usize = 50;
const LEAVING: usize = 150;

/// One after another is reset while publications go out, so that resets fall between any two steps of a walk.
#[test]
fn those_who_stay_miss_nothing() {
    let server = Server::start(&one_app(""));
    let mut staying = subscribers(&server, STAYING);
    let leaving = subscribers(&server, LEAVING);
    let sockets = server.open_sockets();

    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..PUBLISHED {
                publish_number(&server, "room", n, 100);
            }
        });
        scope.spawn(|| {
            for socket in leaving {
                reset(&socket.ws.stream);
                drop(socket);
                std::thread::sleep(std::time::Duration::from_micros(300));
            }
        });
        for n in 0..PUBLISHED {
            staying.iter_mut().for_each(|socket| expect_number(socket, n));
        }
    });

    eventually("the others are gone", || server.metric("fanfare_connections") == STAYING as f64);
    let ledger = Ledger::at_rest(&server);
    println!("published {PUBLISHED}, delivered {} to {STAYING} who stayed, lost 0; {ledger:?}", PUBLISHED * STAYING);
    assert!(ledger.written >= (PUBLISHED * STAYING) as u64);
    assert!(ledger.owed <= (PUBLISHED * (STAYING + LEAVING)) as u64);
    eventually("their sockets are closed", || server.open_sockets() <= sockets - LEAVING);
}

fn subscribers(server: &Server, n: usize) -> Vec<crate::support::Socket> {
    let mut sockets: Vec<_> = (0..n).map(|_| server.connect()).collect();
    sockets.iter_mut().for_each(|socket| socket.subscribe("room"));
    sockets
}

//! Bells and mailboxes between real threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::Duration;

use fanfare_hub::mail::{Bell, Inbox, mailbox};

const SENDERS: usize = 4;
const LETTERS: usize = 50_000;

/// A bell whose wake-ups can be slept for, as a loop sleeps in its poll.
fn bell() -> (Bell, Receiver<()>) {
    let (wake, sleep) = sync_channel(1);
    let wake = move || {
        // Room for one is enough: a loop that has yet to sleep will wake at once.
        let _ = wake.try_send(());
    };
    (Bell::new(Arc::new(wake)), sleep)
}

/// Sleeps until woken, looks, and drains, over and over until `wanted` letters came. A lost wake-up ends in a panic.
fn drain(inbox: &mut Inbox<(usize, usize)>, sleep: &Receiver<()>, wanted: usize) -> Vec<(usize, usize)> {
    let mut letters = Vec::with_capacity(wanted);
    while letters.len() < wanted {
        sleep.recv_timeout(Duration::from_secs(20)).expect("no wake-up is lost");
        inbox.bell().hush();
        letters.extend(std::iter::from_fn(|| inbox.take()));
    }
    letters
}

fn assert_in_order(letters: &[(usize, usize)]) {
    for sender in 0..SENDERS {
        let own = letters.iter().filter(|(from, _)| *from == sender).map(|(_, n)| *n);
        assert!(own.eq(0..LETTERS), "every letter of sender {sender}, once and in order");
    }
}

#[test]
fn no_wake_up_is_lost_between_threads() {
    let (bell, sleep) = bell();
    let (mailbox, mut inbox) = mailbox(64, bell);
    let senders = (0..SENDERS).map(|sender| {
        let mailbox = mailbox.clone();
        thread::spawn(move || {
            for n in 0..LETTERS {
                while mailbox.try_send((sender, n)).is_err() {
                    thread::yield_now();
                }
            }
        })
    });
    let senders: Vec<_> = senders.collect();
    assert_in_order(&drain(&mut inbox, &sleep, SENDERS * LETTERS));
    senders.into_iter().for_each(|sender| sender.join().expect("a sender does not panic"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_that_wait_for_room_are_all_served() {
    let (bell, sleep) = bell();
    let (mailbox, mut inbox) = mailbox(8, bell);
    for sender in 0..SENDERS {
        let mailbox = mailbox.clone();
        tokio::spawn(async move {
            for n in 0..LETTERS {
                mailbox.send((sender, n)).await;
            }
        });
    }
    let drained = thread::spawn(move || drain(&mut inbox, &sleep, SENDERS * LETTERS));
    assert_in_order(&tokio::task::spawn_blocking(|| drained.join().expect("no wake-up is lost")).await.unwrap());
}

#[test]
fn a_loop_that_does_not_look_is_woken_once() {
    let wakes = Arc::new(AtomicUsize::new(0));
    let counted = wakes.clone();
    let bell = Bell::new(Arc::new(move || _ = counted.fetch_add(1, Ordering::Relaxed)));
    let (one, mut first) = mailbox(64, bell.clone());
    let (two, mut second) = mailbox(64, bell);
    (0..10).for_each(|n| assert_eq!((one.try_send(n), two.try_send(n)), (Ok(()), Ok(()))));
    assert_eq!(wakes.load(Ordering::Relaxed), 1, "one for any number of letters in either box");
    first.bell().hush();
    assert!(std::iter::from_fn(|| first.take()).eq(0..10) && std::iter::from_fn(|| second.take()).eq(0..10));
    assert_eq!(one.try_send(10), Ok(()));
    assert_eq!(wakes.load(Ordering::Relaxed), 2);
}

#[test]
fn a_full_box_gives_letters_back() {
    let (mailbox, mut inbox) = mailbox(2, bell().0);
    assert_eq!([mailbox.try_send(1), mailbox.try_send(2), mailbox.try_send(3)], [Ok(()), Ok(()), Err(3)]);
    assert_eq!(inbox.take(), Some(1));
    assert_eq!(mailbox.try_send(3), Ok(()));
    assert_eq!([inbox.take(), inbox.take(), inbox.take()], [Some(2), Some(3), None]);
}

#[test]
fn a_box_whose_loop_has_ended_gives_letters_back() {
    let (mailbox, inbox) = mailbox(2, bell().0);
    drop(inbox);
    assert_eq!(mailbox.try_send(1), Err(1));
}

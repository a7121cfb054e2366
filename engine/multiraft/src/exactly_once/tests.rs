//! What is applied and what is answered, for any order of attempts; and images, good and bad.

use proptest::prelude::*;

use super::*;

/// Adds numbers up, and replies with the sum.
#[derive(Default)]
struct Summing(u64);

impl StateMachine for Summing {
    fn apply(&mut self, entries: Committed<'_>, replies: &mut Replies) {
        for entry in entries {
            self.0 += entry.payload.iter().map(|byte| u64::from(*byte)).sum::<u64>();
            // A reply as long as the payload, and the sum.
            let reply = [&self.0.to_le_bytes()[..], entry.payload].concat();
            replies.push(entry.index, reply);
        }
    }

    fn query(&self, _: &[u8]) -> Bytes {
        Bytes::copy_from_slice(&self.0.to_le_bytes())
    }

    fn checkpoint(&self) -> Checkpoint {
        let sum = self.0;
        Box::new(move |out| out.write_all(&sum.to_le_bytes()))
    }

    fn restore(&mut self, image: &mut dyn Read) -> io::Result<()> {
        let mut sum = [0; 8];
        image.read_exact(&mut sum)?;
        self.0 = u64::from_le_bytes(sum);
        Ok(())
    }
}

/// A group of one replica, reduced to its state machine and its index.
#[derive(Default)]
struct Log {
    machine: ExactlyOnce<Summing>,
    index: u64,
}

impl Log {
    fn apply(&mut self, payload: &[u8]) -> Bytes {
        self.index += 1;
        let (index, mut replies) = (Index(self.index), Replies::new(Caller::Waits));
        self.machine.apply(Committed::one(CommittedEntry { index, payload }), &mut replies);
        replies.to_entry(index).cloned().unwrap_or_default()
    }

    fn register(&mut self) -> OnceSession {
        OnceSession::new(outcome(&self.apply(&register())).unwrap().index)
    }

    fn sum(&self) -> u64 {
        self.machine.inner().0
    }

    fn image(&self) -> Vec<u8> {
        let mut image = Vec::new();
        self.machine.checkpoint()(&mut image).unwrap();
        image
    }

    fn reopen(&mut self) {
        let image = self.image();
        self.machine = ExactlyOnce::default();
        self.machine.restore(&mut &image[..]).unwrap();
        assert_eq!(self.image(), image);
    }
}

#[test]
fn a_repetition_changes_nothing_and_has_the_first_answer() {
    let mut log = Log::default();
    let mut client = log.register();
    let number = client.begin().unwrap();
    let payload = client.payload(number, &[5]);
    let first = outcome(&log.apply(&payload)).unwrap();
    assert_eq!((log.sum(), first.is_repeat), (5, false));
    log.apply(&[1]);
    log.reopen();
    let again = outcome(&log.apply(&payload)).unwrap();
    assert_eq!(again, OnceApplied { is_repeat: true, ..first });
    assert_eq!(log.sum(), 6);
}

#[test]
fn what_was_acknowledged_is_forgotten_and_never_applied_again() {
    let mut log = Log::default();
    let mut client = log.register();
    let first = client.begin().unwrap();
    let payload = client.payload(first, &[5]);
    outcome(&log.apply(&payload)).unwrap();
    client.end(first);
    let second = client.begin().unwrap();
    outcome(&log.apply(&client.payload(second, &[7]))).unwrap();
    assert_eq!(outcome(&log.apply(&payload)), Err(OnceError::Acknowledged));
    assert_eq!(log.sum(), 12);
}

#[test]
fn numbers_may_come_in_any_order() {
    let mut log = Log::default();
    let mut client = log.register();
    let numbers: Vec<Numbered> = (0..4).map(|_| client.begin().unwrap()).collect();
    for at in [2, 0, 3, 0, 2, 1, 3] {
        outcome(&log.apply(&client.payload(numbers[at], &[1 << at]))).unwrap();
    }
    assert_eq!(log.sum(), 0b1111);
}

#[test]
fn the_least_recently_used_client_makes_room_and_is_told() {
    let mut log = Log::default();
    let mut clients: Vec<OnceSession> = (0..CLIENTS_MAX).map(|_| log.register()).collect();
    let number = clients[0].begin().unwrap();
    outcome(&log.apply(&clients[0].payload(number, &[1]))).unwrap();
    log.register();
    log.reopen();
    assert_eq!(log.machine.clients(), CLIENTS_MAX);
    // The second was used least recently, since the first was just used.
    let number = clients[1].begin().unwrap();
    assert_eq!(outcome(&log.apply(&clients[1].payload(number, &[9]))), Err(OnceError::Expired));
    assert_eq!(log.sum(), 1);
    let number = clients[0].begin().unwrap();
    outcome(&log.apply(&clients[0].payload(number, &[1]))).unwrap();
    assert_eq!(log.sum(), 2);
}

#[test]
fn a_client_has_so_many_open_and_replies_too_long_to_keep_are_said_to_be() {
    let mut log = Log::default();
    let mut client = log.register();
    let long = vec![1; REPLY_BYTES_MAX];
    let first = client.begin().unwrap();
    let applied = outcome(&log.apply(&client.payload(first, &long))).unwrap();
    assert_eq!(applied.reply.len(), 8 + long.len(), "the caller that waits gets all of it");
    let again = outcome(&log.apply(&client.payload(first, &long)));
    assert_eq!(again, Err(OnceError::ReplyGone(applied.index)));
    for _ in 1..REPLIES_MAX {
        let number = client.begin().unwrap();
        outcome(&log.apply(&client.payload(number, &[0]))).unwrap();
    }
    assert_eq!(client.begin(), None);
    // A client that exceeds its limit is refused by the group, and nothing is applied.
    let beyond = [&[MARK, ONCE], &[1, REPLIES_MAX as u8, 0][..], &[77]].concat();
    assert_eq!(outcome(&log.apply(&beyond)), Err(OnceError::Full));
    client.end(first);
    assert!(client.begin().is_some());
    assert_eq!(log.sum(), long.len() as u64);
}

#[test]
fn what_looks_like_an_envelope_and_is_none_touches_nothing() {
    let mut log = Log::default();
    for payload in [&[MARK][..], &[MARK, 9], &[MARK, REGISTER, 0], &[MARK, ONCE, 1], &[MARK, ONCE, 1, 2, 3]] {
        assert_eq!(outcome(&log.apply(payload)), Err(OnceError::Unsupported));
    }
    assert_eq!((log.sum(), log.machine.clients()), (0, 0));
    // A payload of the machine's own that happens to begin with the mark can be wrapped as plain.
    log.apply(&plain(Bytes::from_static(&[MARK, 1])));
    assert_eq!(log.sum(), u64::from(MARK) + 1);
}

#[test]
fn an_image_with_any_bit_of_the_table_flipped_or_cut_off_is_refused() {
    let mut log = Log::default();
    let mut client = log.register();
    let number = client.begin().unwrap();
    log.apply(&client.payload(number, b"payload"));
    let good = log.image();
    let restore = |image: &[u8]| ExactlyOnce::<Summing>::default().restore(&mut &image[..]);
    let table_end = good.len() - 8;
    for at in 0..table_end {
        assert!(restore(&good[..at]).is_err());
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            assert!(restore(&bad).is_err(), "bit {bit} of byte {at}");
        }
    }
}

proptest! {
    /// Several clients, whose attempts are delayed, doubled and reordered, on a machine that is stored and
    /// restored: every number counts once, and every answer equals the first one.
    #[test]
    fn every_number_counts_once(
        steps in prop::collection::vec((0..3usize, 0..8u8, any::<bool>(), 0..20u8), 1..200),
    ) {
        let mut log = Log::default();
        let mut clients: Vec<OnceSession> = (0..3).map(|_| log.register()).collect();
        let mut open: Vec<Vec<(Numbered, Bytes)>> = vec![Vec::new(); 3];
        let mut answers = std::collections::BTreeMap::new();
        let mut expected = 0;
        for (who, at, is_new, reopen) in steps {
            if is_new && let Some(number) = clients[who].begin() {
                open[who].push((number, clients[who].payload(number, &[1])));
            } else if !open[who].is_empty() {
                let at = usize::from(at) % open[who].len();
                let (number, payload) = open[who][at].clone();
                let applied = outcome(&log.apply(&payload)).unwrap();
                let first = answers.entry((who, number)).or_insert_with(|| applied.clone());
                expected += u64::from(!applied.is_repeat);
                prop_assert_eq!((applied.index, &applied.reply), (first.index, &first.reply));
                if reopen % 4 == 1 {
                    open[who].swap_remove(at);
                    clients[who].end(number);
                }
            }
            if reopen == 0 {
                log.reopen();
            }
        }
        prop_assert_eq!(expected, answers.len() as u64);
        prop_assert_eq!(log.sum(), expected);
    }

    #[test]
    fn no_bytes_make_the_table_panic(bytes in prop::collection::vec(prop_oneof![0..4u8, any::<u8>()], 0..60)) {
        let mut image = Vec::new();
        image.extend_from_slice(b"RWXO");
        image.extend_from_slice(&1u32.to_le_bytes());
        image.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        image.extend_from_slice(&bytes);
        let checksum = crc32fast::hash(&image);
        image.extend_from_slice(&checksum.to_le_bytes());
        image.extend_from_slice(&[0; 8]);
        let mut machine = ExactlyOnce::<Summing>::default();
        if machine.restore(&mut &image[..]).is_ok() {
            let mut again = Vec::new();
            machine.checkpoint()(&mut again).unwrap();
            prop_assert_eq!(again, image);
        }
    }
}

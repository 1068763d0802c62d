//! All sockets at a moment, in the order in which the kernel has them. Who stays, stays in its place: two such tables are laid side by side
//! from top to bottom, without a search for each of very many sockets.

use super::wire::Row;
use crate::engine::FastMap;

#[derive(Debug, Default)]
pub(super) struct Sockets {
    rows: Vec<Row>,
    /// The process of each; 0 where nobody is known to have it open.
    owners: Vec<u32>,
    /// Where each is, by its address in the kernel.
    places: FastMap<u64, usize>,
}

impl Sockets {
    /// `owner` tells a socket's process, 0 where it is not known.
    pub(super) fn new(mut rows: Vec<Row>, owner: impl FnMut(&Row) -> u32) -> Self {
        let mut places = FastMap::with_capacity_and_hasher(rows.len(), foldhash::fast::RandomState::default());
        // A socket can be met twice, where its neighbours go while the kernel goes through them.
        rows.retain(|row| {
            let place = places.len();
            *places.entry(row.sock).or_insert(place) == place
        });
        Self { owners: rows.iter().map(owner).collect(), rows, places }
    }

    pub(super) const fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn rows(&self) -> std::slice::Iter<'_, Row> {
        self.rows.iter()
    }

    pub(super) fn with_owners(&self) -> impl Iterator<Item = (&Row, u32)> {
        self.rows.iter().zip(self.owners.iter().copied())
    }

    pub(super) fn find(&self, sock: u64) -> Option<(&Row, u32)> {
        let place = *self.places.get(&sock)?;
        self.rows.get(place).zip(self.owners.get(place).copied())
    }

    /// Whether all these sockets were here already, each with an owner that is still there or none that it could have.
    pub(super) fn still_owned(&self, rows: &[Row], is_there: impl Fn(u32) -> bool) -> bool {
        let mut find = self.alongside();
        rows.iter().all(|row| {
            let Some((place, earlier)) = find(row.sock) else { return false };
            let pid = self.owners.get(place).copied().unwrap_or(0);
            row.continues(earlier) && if pid == 0 { row.stays_nobodys() } else { is_there(pid) }
        })
    }

    /// The places of these sockets here, asked for in the order of another such table.
    pub(super) fn alongside<'a>(&'a self) -> impl FnMut(u64) -> Option<(usize, &'a Row)> {
        let mut next = 0;
        move |sock| {
            let place = match self.rows.get(next) {
                Some(row) if row.sock == sock => next,
                _ => *self.places.get(&sock)?,
            };
            next = place + 1;
            Some((place, self.rows.get(place)?))
        }
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros as _;

    use super::*;

    fn sockets(addresses: &[u64]) -> Sockets {
        let row = |(at, sock): (usize, &u64)| {
            let mut row = Row::new_zeroed();
            (row.sock, row.local_port) = (*sock, u16::try_from(at).unwrap());
            row
        };
        let owner = |row: &Row| if row.sock == 3 { 30 } else { 0 };
        Sockets::new(addresses.iter().enumerate().map(row).collect(), owner)
    }

    #[test]
    fn each_is_found_whatever_came_went_and_moved() {
        let before = sockets(&[1, 2, 3, 4, 5, 6]);
        let mut find = before.alongside();
        for (sock, place) in
            [(1, Some(0)), (9, None), (3, Some(2)), (4, Some(3)), (2, Some(1)), (6, Some(5)), (7, None)]
        {
            let found = find(sock);
            assert_eq!(found.map(|(place, _)| place), place, "{sock}");
            assert!(found.is_none_or(|(_, row)| row.sock == sock));
        }
    }

    #[test]
    fn a_socket_met_twice_is_one_and_keeps_its_owner() {
        let found = sockets(&[1, 3, 1, 3, 4]);
        let all: Vec<_> = found.with_owners().map(|(row, pid)| (row.sock, row.local_port, pid)).collect();
        assert_eq!(all, [(1, 0, 0), (3, 1, 30), (4, 4, 0)]);
        assert_eq!(found.find(4).map(|(row, pid)| (row.local_port, pid)), Some((4, 0)));
        assert!(found.find(2).is_none());
    }

    #[test]
    fn owners_are_kept_while_nothing_is_new() {
        let socket = |sock, state| {
            let mut row = Row::new_zeroed();
            (row.sock, row.state) = (sock, state);
            row
        };
        let (held, waits, ended) = (socket(1, 1), socket(2, 1), socket(3, 5));
        let before = Sockets::new(vec![held, waits, ended], |row| if row.sock == 1 { 30 } else { 0 });
        let all_are_there = |_| true;
        assert!(before.still_owned(&[held, ended], all_are_there));
        assert!(!before.still_owned(&[held], |pid| pid != 30), "its process is gone");
        assert!(!before.still_owned(&[held, waits], all_are_there), "somebody may have accepted it");
        assert!(!before.still_owned(&[held, socket(4, 1)], all_are_there), "it is new");
        assert!(!before.still_owned(&[Row { local_port: 9, ..held }], all_are_there), "another has its place");
    }
}

//! All sockets at a moment, in the order in which the kernel has them. Who stays, stays in its place: two such tables are laid side by side
//! from top to bottom, without a search for each of very many sockets.

use super::wire::{OwnerRow, Row};
use crate::summary::FastMap;

#[derive(Debug, Default)]
pub(super) struct Sockets {
    rows: Vec<Row>,
    /// The process of each; 0 where nobody is known to have it open.
    owners: Vec<u32>,
    /// Where each is, by its address in the kernel.
    places: FastMap<u64, usize>,
}

impl Sockets {
    pub(super) fn new(mut rows: Vec<Row>, owners: &FastMap<u64, OwnerRow>) -> Self {
        let mut places = FastMap::with_capacity_and_hasher(rows.len(), foldhash::fast::RandomState::default());
        // A socket can be met twice, where its neighbours go while the kernel goes through them.
        rows.retain(|row| {
            let place = places.len();
            *places.entry(row.sock).or_insert(place) == place
        });
        let owner = |row: &Row| owners.get(&row.sock).map_or(0, |owner| owner.pid);
        Self { owners: rows.iter().map(owner).collect(), rows, places }
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
        let owner = OwnerRow { sock: 3, started_ns: 1, pid: 30, pad0: 0 };
        Sockets::new(addresses.iter().enumerate().map(row).collect(), &FastMap::from_iter([(3, owner)]))
    }

    #[test]
    fn each_is_found_whatever_came_went_and_moved() {
        let before = sockets(&[1, 2, 3, 4, 5, 6]);
        let mut find = before.alongside();
        for (sock, place) in [(1, Some(0)), (9, None), (3, Some(2)), (4, Some(3)), (2, Some(1)), (6, Some(5)), (7, None)] {
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
}

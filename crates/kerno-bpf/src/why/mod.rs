//! Where the time of a few processes goes, and whom they wait for.
mod programs;
pub(crate) use programs::plan;

#[cfg(test)]
mod tests {
    #[test]
    fn raw() {
        let host = crate::Host::detect();
        let mut programs = super::programs::Programs::attach(&host).unwrap();
        let pid: u32 = std::env::var("WHY").unwrap().parse().unwrap();
        programs.follow([pid]).unwrap();
        std::thread::sleep(std::time::Duration::from_secs(3));
        let kept = programs.read().unwrap();
        for thread in kept.threads.values() {
            println!("{thread:?}");
        }
        for (sleep, slept) in &kept.sleeps {
            println!("{sleep:?} {slept:?}");
        }
        for s in &kept.sockets {
            println!("{s:?}");
        }
        println!("{:?} {} places {}", kept.cpu_waits, kept.places.len(), kept.paths.len());
        println!("{:?}", programs.loss());
    }
}

//! Network namespaces: one for each pod, one for the node between them, all gone with the test.
//!
//! A namespace lives as long as a process in it. That is a `cat` on a pipe of ours, so it ends when the test does, however
//! it does; nothing has a name in the system, and nothing is left to clean up.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::process::{Child, Command, Output, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace.
pub(crate) struct Namespace {
    holder: Child,
}

impl Namespace {
    /// A new one, with loopback only.
    pub(crate) fn new() -> Self {
        let mut holder = Command::new("unshare")
            .args(["--net", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare (util-linux) is installed");
        let mut byte = [0];
        let mut echo = || {
            holder.stdin.as_mut()?.write_all(b"!").ok()?;
            holder.stdout.as_mut()?.read_exact(&mut byte).ok()
        };
        assert!(
            echo().is_some(),
            "a network namespace can be made (root is needed)"
        );
        let namespace = Self { holder };
        // Without it a new link has no address of its own for up to 2 s, and a router asks for no neighbour until then.
        for scope in ["all", "default"] {
            let setting = format!("net.ipv6.conf.{scope}.accept_dad=0");
            namespace.must(&["sysctl", "-qw", &setting]);
        }
        namespace.must(&["ip", "link", "set", "lo", "up"]);
        namespace
    }

    /// The id of the process that holds it.
    fn pid(&self) -> String {
        self.holder.id().to_string()
    }

    /// The arguments that run a program in it, before the program's own.
    pub(crate) fn enter(&self) -> Vec<String> {
        let pid = self.pid();
        ["nsenter", "--target", &pid, "--net", "--"]
            .map(str::to_owned)
            .into()
    }

    /// Runs a program in it to its end.
    pub(crate) fn run(&self, command: &[&str]) -> Output {
        let enter = self.enter();
        Command::new(&enter[0])
            .args(&enter[1..])
            .args(command)
            .stdin(Stdio::null())
            .output()
            .expect("nsenter (util-linux) is installed")
    }

    /// Runs a program that must succeed, and returns what it printed.
    pub(crate) fn must(&self, command: &[&str]) -> String {
        let output = self.run(command);
        assert!(
            output.status.success(),
            "{command:?}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs `work` on a thread in it, to its end.
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.move_here();
                work()
            });
            match inside.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Moves the calling thread into it; sockets that it opens are of this namespace, wherever they are used.
    fn move_here(&self) {
        let link = std::fs::File::open(format!("/proc/{}/ns/net", self.pid())).expect("the holder runs");
        move_into_link_name_space(link.as_fd(), Some(LinkNameSpaceType::Network)).expect("root");
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

/// The node: it routes between pods, and has addresses that stand for the world outside.
pub(crate) struct Node {
    /// Its namespace.
    pub(crate) namespace: Namespace,
    pods: std::cell::Cell<u8>,
}

/// An address of the world outside, which the node has itself.
pub(crate) const OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));

/// An IPv6 address of the world outside.
pub(crate) const OUTSIDE_IPV6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

/// Where the control plane is: an address of the node.
pub(crate) const CONTROL_PLANE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1));

/// A pod's addresses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    pub(crate) ipv4: IpAddr,
    pub(crate) ipv6: IpAddr,
}

impl Node {
    /// A node without pods.
    pub(crate) fn new() -> Self {
        let namespace = Namespace::new();
        namespace.must(&["sysctl", "-qw", "net.ipv4.ip_forward=1"]);
        namespace.must(&["sysctl", "-qw", "net.ipv6.conf.all.forwarding=1"]);
        for (address, prefix) in [(OUTSIDE, 32), (OUTSIDE_IPV6, 128), (CONTROL_PLANE, 32)] {
            let block = format!("{address}/{prefix}");
            namespace.must(&["ip", "address", "add", &block, "dev", "lo"]);
        }
        Self {
            namespace,
            pods: std::cell::Cell::new(0),
        }
    }

    /// A new pod's namespace, with a link to the node, and its addresses.
    pub(crate) fn pod(&self) -> (Namespace, Addresses) {
        let number = self.pods.get() + 1;
        self.pods.set(number);
        let pod = Namespace::new();
        let link = format!("pod{number}");
        let (node, inside) = (&self.namespace, pod.pid());
        node.must(&[
            "ip", "link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &inside,
        ]);
        let addresses = Addresses {
            ipv4: IpAddr::V4(Ipv4Addr::new(10, 77, number, 2)),
            ipv6: IpAddr::V6(Ipv6Addr::new(0xfd77, u16::from(number), 0, 0, 0, 0, 0, 2)),
        };
        let ipv4 = |last: u8| format!("10.77.{number}.{last}");
        let ipv6 = |last: u8| format!("fd77:{number}::{last}");
        for (namespace, device, last) in [(node, link.as_str(), 1), (&pod, "eth0", 2)] {
            let (four, six) = (format!("{}/24", ipv4(last)), format!("{}/64", ipv6(last)));
            namespace.must(&["ip", "address", "add", &four, "dev", device]);
            namespace.must(&["ip", "address", "add", &six, "dev", device, "nodad"]);
            namespace.must(&["ip", "link", "set", device, "up"]);
        }
        pod.must(&["ip", "route", "add", "default", "via", &ipv4(1)]);
        pod.must(&["ip", "-6", "route", "add", "default", "via", &ipv6(1)]);
        (pod, addresses)
    }
}

//! What was found: one line per check, in order, each failure with a remedy.

use std::fmt::Write as _;

use serde::Serialize;

/// Items that a table shows of one line; JSON has all.
const ITEMS_SHOWN_MAX: usize = 10;

/// What a line is about, in the order of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Category {
    Kubernetes,
    GatewayApi,
    Crds,
    Rights,
    ControlPlane,
    Injection,
    Certificates,
    Namespaces,
    Workloads,
    Proxies,
    Objects,
    Clients,
}

impl Category {
    fn title(self) -> &'static str {
        match self {
            Self::Kubernetes => "Kubernetes",
            Self::GatewayApi => "Gateway API",
            Self::Crds => "Weft's CRDs",
            Self::Rights => "rights",
            Self::ControlPlane => "control plane",
            Self::Injection => "injection",
            Self::Certificates => "certificates",
            Self::Namespaces => "namespaces",
            Self::Workloads => "workloads",
            Self::Proxies => "proxies",
            Self::Objects => "routes and policies",
            Self::Clients => "unmeshed clients",
        }
    }
}

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    Ok,
    /// Works, and somebody should know all the same.
    Warning,
    Failed,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Line {
    pub(crate) category: Category,
    /// A name that stays the same from version to version.
    pub(crate) check: &'static str,
    pub(crate) outcome: Outcome,
    /// What was found.
    pub(crate) says: String,
    /// Each thing that it was found of.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) items: Vec<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) remedy: Option<String>,
}

/// All checks.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Report {
    /// Nothing failed.
    pub(crate) healthy: bool,
    pub(crate) checks: Vec<Line>,
}

impl Report {
    /// Of these lines, in their categories' order.
    pub(crate) fn new(mut checks: Vec<Line>) -> Self {
        checks.sort_by_key(|line| line.category);
        Self {
            healthy: checks.iter().all(|line| line.outcome != Outcome::Failed),
            checks,
        }
    }
}

/// Collects the lines of one category.
#[derive(Debug)]
pub(crate) struct Lines<'a> {
    pub(crate) category: Category,
    pub(crate) lines: &'a mut Vec<Line>,
}

impl Lines<'_> {
    fn push(
        &mut self,
        check: &'static str,
        outcome: Outcome,
        says: impl Into<String>,
        items: Vec<String>,
        remedy: Option<String>,
    ) {
        self.lines.push(Line {
            category: self.category,
            check,
            outcome,
            says: says.into(),
            items,
            remedy,
        });
    }

    /// All is well.
    pub(crate) fn ok(&mut self, check: &'static str, says: impl Into<String>) {
        self.push(check, Outcome::Ok, says, Vec::new(), None);
    }

    /// Somebody should know.
    pub(crate) fn warn(
        &mut self,
        check: &'static str,
        says: impl Into<String>,
        items: Vec<String>,
        remedy: impl Into<String>,
    ) {
        self.push(check, Outcome::Warning, says, items, Some(remedy.into()));
    }

    /// Something is wrong.
    pub(crate) fn fail(&mut self, check: &'static str, says: impl Into<String>, remedy: impl Into<String>) {
        self.push(check, Outcome::Failed, says, Vec::new(), Some(remedy.into()));
    }

    /// Something is wrong with each of `items`; with none, all is well.
    pub(crate) fn each(
        &mut self,
        check: &'static str,
        items: Vec<String>,
        well: impl Into<String>,
        wrong: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        if items.is_empty() {
            self.ok(check, well);
        } else {
            self.push(check, Outcome::Failed, wrong, items, Some(remedy.into()));
        }
    }
}

/// For people.
pub(crate) fn table(report: &Report) -> String {
    let mut out = String::new();
    let mut category = None;
    for line in &report.checks {
        if category != Some(line.category) {
            category = Some(line.category);
            let _ = writeln!(out, "{}", line.category.title());
        }
        let mark = match line.outcome {
            Outcome::Ok => "ok     ",
            Outcome::Warning => "WARNING",
            Outcome::Failed => "FAILED ",
        };
        let _ = writeln!(out, "  {mark}  {}", line.says);
        for item in line.items.iter().take(ITEMS_SHOWN_MAX) {
            let _ = writeln!(out, "           - {item}");
        }
        if line.items.len() > ITEMS_SHOWN_MAX {
            let more = line.items.len() - ITEMS_SHOWN_MAX;
            let _ = writeln!(out, "           - and {more} more; `-o json` has all");
        }
        if let Some(remedy) = &line.remedy {
            let _ = writeln!(out, "           remedy: {remedy}");
        }
    }
    let count = |outcome| {
        report
            .checks
            .iter()
            .filter(|line| line.outcome == outcome)
            .count()
    };
    let (failed, warnings) = (count(Outcome::Failed), count(Outcome::Warning));
    let _ = writeln!(
        out,
        "{} checks, {failed} failed, {warnings} warnings",
        report.checks.len()
    );
    out
}

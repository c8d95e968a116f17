//! Where cases are.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
};

use crate::{Error, Result};

/// Folders below a root that are looked into.
const MAX_DEPTH: usize = 12;
/// Entries looked at below all roots together.
const MAX_ENTRIES: usize = 200_000;

/// All folders with a `case.json` below `roots` (or the roots themselves), sorted, each once. Links are not followed.
///
/// # Errors
/// A root cannot be read, or there are more entries than a set of cases can have.
pub fn find_cases(roots: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    let mut entries = 0;
    for root in roots {
        let mut open = vec![(root.clone(), 0)];
        let mut here = Vec::new();
        while let Some((dir, depth)) = open.pop() {
            if dir.join("case.json").is_file() {
                here.push(dir);
                continue;
            }
            for entry in fs::read_dir(&dir).map_err(|e| Error::io(&dir, e))? {
                let entry = entry.map_err(|e| Error::io(&dir, e))?;
                entries += 1;
                if entries > MAX_ENTRIES {
                    let expected = format!("at most {MAX_ENTRIES} files and folders");
                    return Err(Error::format(root, expected, "more"));
                }
                if entry.file_type().is_ok_and(|t| t.is_dir()) && depth < MAX_DEPTH {
                    open.push((entry.path(), depth + 1));
                }
            }
        }
        here.sort();
        for dir in here {
            let real = fs::canonicalize(&dir).map_err(|e| Error::io(&dir, e))?;
            if seen.insert(real) {
                found.push(dir);
            }
        }
    }
    Ok(found)
}

/// Folders of cases this machine has: `MUSAIC_GOLDENS`, or else `../shared/goldens` beside the workspace; then the
/// project's own `tests/goldens`. Only those that exist.
pub fn golden_roots() -> Vec<PathBuf> {
    let workspace = env::current_dir()
        .ok()
        .and_then(|dir| dir.ancestors().find(|dir| dir.join("tests/goldens").is_dir()).map(Path::to_owned));
    let more = match env::var_os("MUSAIC_GOLDENS") {
        Some(dir) if !dir.is_empty() => Some(PathBuf::from(dir)),
        _ => workspace.as_ref().and_then(|dir| Some(dir.parent()?.join("shared/goldens"))),
    };
    let own = workspace.map(|dir| dir.join("tests/goldens"));
    more.into_iter().chain(own).filter(|dir| dir.is_dir()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_each_case_once_and_no_deeper() {
        let root = tempfile::tempdir().unwrap();
        for dir in ["b/two", "a/one", "a/one/inner"] {
            fs::create_dir_all(root.path().join(dir)).unwrap();
            fs::write(root.path().join(dir).join("case.json"), "{}").unwrap();
        }
        let roots = [root.path().to_owned(), root.path().join("a")];
        let found = find_cases(&roots).unwrap();
        let names: Vec<_> = found.iter().map(|d| d.strip_prefix(root.path()).unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["a/one", "b/two"]);
        assert!(find_cases(&[root.path().join("absent")]).is_err());
    }

    #[test]
    fn the_projects_own_cases_are_found() {
        assert!(!find_cases(&golden_roots()).unwrap().is_empty());
    }
}

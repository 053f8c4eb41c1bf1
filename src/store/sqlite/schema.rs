//! The file: its lock, its mode, its one table and the settings of a connection. Knows nothing of
//! the store's calls.

use std::{
    fs::{self, File, OpenOptions, Permissions, TryLockError},
    io::{self, Read},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags, config::DbConfig};

/// "IBYK": whose file it is, for `file` and for us.
const APPLICATION_ID: i32 = 0x4942_594b;
/// The version of the table below. Another one is refused, not guessed at.
const SCHEMA_VERSION: i64 = 2;
/// For the owner alone.
const FILE_MODE: u32 = 0o600;
/// How long a connection waits where somebody holds the file against the rules (a shell on it).
const BUSY_WAIT: Duration = Duration::from_millis(250);

/// The names stand in an index of their own: with the items in one tree, to compare two names is to read
/// whole items, those on overflow pages too. `fence` is what a commit after a failed one changes; see
/// `writer`.
const SCHEMA: &str = "
    CREATE TABLE items (
        id         INTEGER PRIMARY KEY,
        partition  TEXT    NOT NULL,
        sort       TEXT    NOT NULL,
        revision   INTEGER NOT NULL,
        expires    INTEGER,
        sealed     BLOB,
        mac        BLOB,
        attributes BLOB    NOT NULL,
        UNIQUE (partition, sort)
    ) STRICT;
    CREATE INDEX items_by_expiry ON items (expires) WHERE expires IS NOT NULL;
    CREATE TABLE fence (id INTEGER PRIMARY KEY CHECK (id = 1), count INTEGER NOT NULL) STRICT;
    INSERT INTO fence (id, count) VALUES (1, 0);
";

/// Why a vault's file can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process works with it.
    #[error(
        "another server has the vault {vault} open: it holds the lock file {lock}; one vault file serves one server"
    )]
    Held {
        /// The vault's file.
        vault: PathBuf,
        /// The file whose lock says who has it.
        lock: PathBuf,
    },
    /// There is none.
    #[error("there is no vault at {0}")]
    Absent(PathBuf),
    /// The file system says no.
    #[error("can't {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is no file of ours.
    #[error("{0} is not a vault of this program; it is left as it is")]
    Foreign(PathBuf),
    /// It was made by another version.
    #[error("the vault {path} has schema version {found}; this server knows version {SCHEMA_VERSION}")]
    Version {
        /// The vault's file.
        path: PathBuf,
        /// What it says.
        found: i64,
    },
    /// Its file system has no shared memory for the write-ahead log, a network share perhaps.
    #[error("the vault {0} can't keep a write-ahead log there: put it on a local disk")]
    Journal(PathBuf),
    /// The database says no.
    #[error("can't open the vault {path}: {source}")]
    Database {
        /// The vault's file.
        path: PathBuf,
        /// What it said.
        source: rusqlite::Error,
    },
}

/// The locked file of a vault: no other process has it open while this lives.
#[derive(Debug)]
pub(super) struct Locked {
    path: PathBuf,
    _lock: File,
}

impl Locked {
    /// Takes the lock of the vault at `path`.
    pub(super) fn take(path: &Path) -> Result<Self, OpenError> {
        // Asked before the lock's own file is made; nobody takes a vault's file away meanwhile.
        let is_there = path.try_exists().map_err(io_error("find", path))?;
        if is_there { Self::lock(real(path)?) } else { Err(OpenError::Absent(path.to_owned())) }
    }

    /// Takes the lock of the vault at `path`, and makes its file if there is none.
    pub(super) fn take_or_make(path: &Path) -> Result<Self, OpenError> {
        let locked = Self::lock(real(path)?)?;
        // Only under the lock: closing any handle of the file drops what SQLite locked in it.
        match private_options().create_new(true).open(&locked.path) {
            Ok(file) => drop(file),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(io_error("make", &locked.path)(error)),
        }
        if let Some(parent) = locked.path.parent() {
            File::open(parent).and_then(|it| it.sync_all()).map_err(io_error("sync", parent))?;
        }
        Ok(locked)
    }

    fn lock(path: PathBuf) -> Result<Self, OpenError> {
        let mut lock_path = path.clone().into_os_string();
        lock_path.push(".lock");
        let lock_path = PathBuf::from(lock_path);
        let lock = private_options().create(true).open(&lock_path).map_err(io_error("open", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::Held { vault: path, lock: lock_path }),
            Err(TryLockError::Error(source)) => {
                return Err(OpenError::Io { action: "lock", path: lock_path, source });
            }
        }
        Ok(Self { path, _lock: lock })
    }

    /// The real name of the vault's file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Opens the vault's file for the writer; makes its table if it is new.
pub(super) fn make_writer(path: &Path) -> Result<Connection, OpenError> {
    keep_private(path)?;
    let database = database_error(path);
    let mut connection = connect(path).map_err(&database)?;
    if is_empty(&connection).map_err(&database)? {
        settle(&connection, path)?;
        create(&mut connection).map_err(&database)?;
        return Ok(connection);
    }
    check_owner(&connection, path)?;
    settle(&connection, path)?;
    Ok(connection)
}

/// Opens the vault's file for the writer; an empty one is no vault yet.
pub(super) fn open_vault(path: &Path) -> Result<Connection, OpenError> {
    keep_private(path)?;
    let connection = connect(path).map_err(database_error(path))?;
    if is_empty(&connection).map_err(database_error(path))? {
        return Err(OpenError::Absent(path.to_owned()));
    }
    check_owner(&connection, path)?;
    settle(&connection, path)?;
    Ok(connection)
}

/// Opens a vault's file for the writer again; an empty one is refused.
pub(super) fn open_writer(path: &Path) -> Result<Connection, OpenError> {
    let connection = connect(path).map_err(database_error(path))?;
    check_owner(&connection, path)?;
    settle(&connection, path)?;
    Ok(connection)
}

/// Opens the vault's file for a reader. It must be open for the writer already.
pub(super) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_WAIT)?;
    plan_once(&connection)?;
    // Every commit empties it: more would be memory for nothing.
    connection.pragma_update(None, "cache_size", -512)?;
    connection.pragma_update(None, "query_only", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    Ok(connection)
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_WAIT)?;
    plan_once(&connection)?;
    Ok(connection)
}

/// Has a statement keep its plan whatever is bound to it ("Query Planner Stability Guarantee"): else one
/// with a range is prepared anew whenever another value is bound.
fn plan_once(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(drop)
}

fn is_empty(connection: &Connection) -> rusqlite::Result<bool> {
    let objects: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", (), |row| row.get(0))?;
    Ok(objects == 0 && pragma(connection, "application_id")? == 0)
}

fn check_owner(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    let database = database_error(path);
    if pragma(connection, "application_id").map_err(&database)? != i64::from(APPLICATION_ID) {
        return Err(OpenError::Foreign(path.to_owned()));
    }
    match pragma(connection, "user_version").map_err(&database)? {
        SCHEMA_VERSION => Ok(()),
        found => Err(OpenError::Version { path: path.to_owned(), found }),
    }
}

fn pragma(connection: &Connection, name: &str) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, name, |row| row.get(0))
}

/// Durable on return, deleted means overwritten, and nothing but our own SQL is trusted.
fn settle(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    let set = || -> rusqlite::Result<String> {
        let mode = connection.query_row("PRAGMA journal_mode = WAL", (), |row| row.get(0))?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "fullfsync", true)?;
        connection.pragma_update(None, "checkpoint_fullfsync", true)?;
        connection.pragma_update_and_check(None, "secure_delete", true, |_| Ok(()))?;
        connection.pragma_update(None, "temp_store", "MEMORY")?;
        connection.pragma_update(None, "trusted_schema", false)?;
        connection.pragma_update(None, "cell_size_check", true)?;
        Ok(mode)
    };
    let mode = set().map_err(database_error(path))?;
    if mode == "wal" { Ok(()) } else { Err(OpenError::Journal(path.to_owned())) }
}

fn create(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(SCHEMA)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    transaction.commit()
}

/// Two names of one file must meet at one lock, and SQLite takes "file:" names for URIs: so its
/// absolute name without links, without opening it.
fn real(path: &Path) -> Result<PathBuf, OpenError> {
    match path.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let name = path.file_name().ok_or(error).map_err(io_error("make", path))?;
            Ok(parent.canonicalize().map_err(io_error("find", parent))?.join(name))
        }
        other => other.map_err(io_error("find", path)),
    }
}

/// Keeps a vault's file to its owner before SQLite gives its mode to the files beside it. A file
/// of somebody else is left as it is.
fn keep_private(path: &Path) -> Result<(), OpenError> {
    let mut header = [0; 72];
    let is_ours = match File::open(path).and_then(|mut file| file.read_exact(&mut header)) {
        Ok(()) => header.last_chunk() == Some(&APPLICATION_ID.to_be_bytes()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => false,
        Err(error) => return Err(io_error("read", path)(error)),
    };
    if is_ours {
        fs::set_permissions(path, Permissions::from_mode(FILE_MODE)).map_err(io_error("set the mode of", path))?;
    }
    Ok(())
}

fn private_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(FILE_MODE);
    options
}

fn database_error(path: &Path) -> impl Fn(rusqlite::Error) -> OpenError {
    |source| match source.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => OpenError::Foreign(path.to_owned()),
        _ => OpenError::Database { path: path.to_owned(), source },
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    move |source| OpenError::Io { action, path: path.to_owned(), source }
}

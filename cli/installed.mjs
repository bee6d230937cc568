// Runs a file of ours on the pinned Node, after installing what is missing: `npm start` and `npm test` work on a fresh
// checkout. It runs on Node 20 or later with nothing installed, and prints nothing where nothing is missing.
import { spawn, spawnSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  realpathSync,
  renameSync,
  rmdirSync,
  rmSync,
  statSync,
} from 'node:fs';
import { constants } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const NODE_MAJOR = 26;
// Measured on linux-x64 with an empty cache; 581 MB unpacked, of which Node 143 and PostgreSQL 60.
const DOWNLOAD = 'about 220 MB, including Node and PostgreSQL';

const QUIET = ['--disable-warning=ExperimentalWarning'];

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const inRoot = (...path) => join(root, ...path);

/** The program itself, not npm's link to it; undefined where it does not run, as in a tree of another machine. */
function pinnedNode() {
  const link = inRoot('node_modules/.bin/node');
  if (!existsSync(link)) return undefined;
  const node = realpathSync(link);
  const { stdout } = spawnSync(node, ['--version'], { encoding: 'utf8' });
  return stdout?.startsWith(`v${NODE_MAJOR}.`) ? node : undefined;
}

/** npm writes the list of what it installed; a lock file that changed since has more to install. */
function isUpToDate() {
  const installed = inRoot('node_modules/.package-lock.json');
  const wanted = inRoot('package-lock.json');
  return existsSync(installed) && statSync(installed).mtimeMs >= statSync(wanted).mtimeMs;
}

function isAlive(pid) {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return error.code === 'EPERM';
  }
}

// A folder that holds the number of its holder, as a folder's name. It is moved into place with that in it, which fails as long as
// another number is there; and a dead holder is removed by its number, so that of two who find it dead the later one does not remove
// the earlier one's lock.
const lock = inRoot('.installing-lock');
const remove = (holder) => rmSync(join(lock, holder), { recursive: true, force: true });
function unlock() {
  process.off('exit', unlock);
  remove(`${process.pid}`);
  try {
    rmdirSync(lock);
  } catch {
    // It is the next one's already.
  }
}

function tryToLock() {
  const own = `${lock}.${process.pid}`;
  mkdirSync(join(own, `${process.pid}`), { recursive: true });
  try {
    renameSync(own, lock);
    process.once('exit', unlock);
    return true;
  } catch (error) {
    rmSync(own, { recursive: true });
    if (error.code === 'ENOTEMPTY' || error.code === 'EEXIST') return false;
    throw error;
  }
}

/** Undefined: it was given back meanwhile. */
function holderOfLock() {
  try {
    return readdirSync(lock)[0];
  } catch (error) {
    if (error.code !== 'ENOENT') throw error;
  }
}

/** One at a time: two `npm ci` delete each other's files, and `npm start` beside `npm test` is usual. */
function waitForTurn() {
  for (let said = false; !tryToLock();) {
    const holder = holderOfLock();
    if (holder === undefined) continue;
    // In a container, a process that was killed had our own number.
    if (Number(holder) === process.pid || !isAlive(Number(holder))) {
      remove(holder);
      continue;
    }
    if (!said) process.stderr.write('abide: waiting for an installation that is under way …\n');
    said = true;
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 200);
  }
}

function install() {
  waitForTurn();
  const already = isUpToDate() && pinnedNode();
  if (already) {
    unlock();
    return already;
  }
  process.stderr.write(`abide: installing what is missing (npm ci, ${DOWNLOAD}) …\n`);
  // Its words go to standard error: standard output belongs to the program that follows.
  const { status, error } = spawnSync('npm', ['ci', '--no-audit', '--no-fund'], {
    cwd: root,
    stdio: ['ignore', 2, 2],
  });
  // What follows may run for days, and whoever installs what a newer checkout needs does not wait for it.
  unlock();
  const node = status === 0 ? pinnedNode() : undefined;
  if (node !== undefined) return node;
  const why =
    error?.code === 'ENOENT'
      ? 'npm is not on the PATH'
      : status === 0
        ? `Node ${NODE_MAJOR} was installed but does not run on this machine`
        : 'npm ci failed, see above (is the npm registry reachable, is the disk full?)';
  process.stderr.write(`abide: the installation is not complete: ${why}.\n`);
  process.exit(1);
}

const node = (isUpToDate() && pinnedNode()) || install();
const child = spawn(node, [...QUIET, ...process.argv.slice(2)], {
  stdio: 'inherit',
  // Compiled once and kept, by what the file holds: whatever of ours is started after that starts in half the time.
  env: { NODE_COMPILE_CACHE: inRoot('node_modules/.cache/compiled'), ...process.env },
});
// A terminal tells the whole process group, so the program may hear it twice and takes it as once.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal));
child.on('error', (error) => {
  process.stderr.write(`abide: ${node} cannot be run: ${error.message}\n`);
  process.exit(1);
});
child.on('exit', (code, signal) => process.exit(code ?? 128 + constants.signals[signal]));

// Runs a file of ours on the pinned Node, after installing what is missing: `npm start` and `npm test` work on a fresh
// checkout. It runs on Node 20 or later with nothing installed, and prints nothing where nothing is missing.
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, readFileSync, realpathSync, rmSync, statSync, writeFileSync } from 'node:fs';
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

const lock = inRoot('.installing');
function unlock() {
  process.off('exit', unlock);
  rmSync(lock, { force: true });
}

/** One at a time: two `npm ci` delete each other's files, and `npm start` beside `npm test` is usual. */
function waitForTurn() {
  for (let said = false; ;) {
    try {
      writeFileSync(lock, `${process.pid}`, { flag: 'wx' });
      process.once('exit', unlock);
      return;
    } catch (error) {
      if (error.code !== 'EEXIST') throw error;
    }
    const holder = existsSync(lock) ? Number(readFileSync(lock, 'utf8')) : 0;
    if (!isAlive(holder)) unlock();
    else if (!said) process.stderr.write('abide: waiting for an installation that is under way …\n');
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

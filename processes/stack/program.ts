// One program of the stack. It runs in a process group of its own, so that Ctrl-C in the terminal is ours to pass on. Its output
// goes to a log file. It is written down while it runs, so that the next start finds what a killed one left behind. It is started
// again when it ends by itself.
import { execFile, spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import {
  copyFileSync,
  mkdirSync,
  openSync,
  closeSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { platform } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { isEnded, readProcStat } from '../proc-stat.ts';

const run = promisify(execFile);
/** Limit of a program's log, and of the earlier log that is kept beside it. */
const LOG_BYTES_MAX = 20 * 1024 * 1024;
const LOG_LOOK_MS = 1_000;
const RESTART_MS_MAX = 5_000;
const LEFTOVERS_MS_MAX = 5_000;
/** A program that ran this long before it ended is started again at once. */
const STEADY_MS = 20_000;
/** After so many failures in a row, what it lacks may be what only a start of the whole stack makes, as its folder. */
const FAILURES_MANY = 3;

/**
 * `group` is the id of process and group; `began` tells it from a later process with the same id, and `home` from
 * a process of the folder that this one is a copy of.
 */
type Written = {
  readonly name: string;
  readonly group: number;
  readonly began: string;
  /** Undefined: written down by a version that did not write it yet, whose programs an upgrade still has to stop. */
  readonly home?: string;
};

export type Program = {
  readonly name: string;
  /** Id of the process that runs now; undefined between an end and the next start. */
  readonly pid: number | undefined;
  /** SIGTERM, and SIGKILL to the group after `withinMs`. */
  stop(withinMs: number): Promise<void>;
};

export type ProgramSettings = {
  readonly name: string;
  readonly command: string;
  readonly args: readonly string[];
  readonly env: NodeJS.ProcessEnv;
  /** The folder that it is started in; ours if none is named. */
  readonly cwd?: string | undefined;
  /** `logs/` and `running/` are made in it. */
  readonly folder: string;
  /** Whether its standard output is ours; standard error always goes to the log. */
  readonly shows?: boolean;
  readonly print: (line: string) => void;
};

export function startProgram({
  name,
  command,
  args,
  env,
  cwd,
  folder,
  shows = false,
  print,
}: ProgramSettings): Program {
  const logFile = logFileOf(folder, name);
  const written = writtenOf(folder, name);
  mkdirSync(join(folder, 'logs'), { recursive: true, mode: 0o700 });
  mkdirSync(join(folder, 'running'), { recursive: true });
  let child: ChildProcess | undefined;
  let ended: Promise<void> = Promise.resolve();
  let isStopping = false;
  let failures = 0;
  let again: NodeJS.Timeout | undefined;

  const looking = setInterval(() => {
    if (fileSize(logFile) > LOG_BYTES_MAX) putAside(logFile);
  }, LOG_LOOK_MS).unref();

  function start(): void {
    const log = openSync(logFile, 'a', 0o600);
    const began = performance.now();
    const started = spawn(command, args, {
      env,
      cwd,
      detached: true,
      stdio: ['ignore', shows ? 'inherit' : log, log],
    });
    closeSync(log);
    child = started;
    const { pid } = started;
    if (pid !== undefined) {
      beganAt(pid)
        .then((at) => {
          if (at !== undefined && child === started)
            writeFileSync(written, textOf(folder, { name, group: pid, began: at }));
        })
        .catch((error: unknown) => {
          print(
            `abide: ${name} could not be written down: after a crash it would be left running: ${String(error)}`,
          );
        });
    }
    ended = new Promise((resolve) => {
      const end = (why: string): void => {
        if (child !== started) return;
        child = undefined;
        rmSync(written, { force: true });
        resolve();
        if (isStopping) return;
        failures = performance.now() - began > STEADY_MS ? 0 : failures + 1;
        const pauseMs = failures === 0 ? 0 : Math.min(RESTART_MS_MAX, 100 * 2 ** failures);
        print(
          `abide: ${name} ended (${why}) and is started again; its log: ${logFile}` +
            (failures < FAILURES_MANY ? '' : '. It keeps ending: stop the stack and start it again'),
        );
        again = setTimeout(start, pauseMs);
      };
      started.once('exit', (code, signal) => end(signal ?? `code ${code}`));
      started.once('error', (error) => end(error.message));
    });
  }

  start();
  return {
    name,
    get pid() {
      return child?.pid;
    },
    stop: async (withinMs) => {
      isStopping = true;
      clearTimeout(again);
      clearInterval(looking);
      const pid = child?.pid;
      if (pid === undefined) return;
      await endGroup(pid, ended, withinMs);
    },
  };
}

export const logFileOf = (folder: string, name: string): string => join(folder, 'logs', `${name}.log`);
const writtenOf = (folder: string, name: string): string => join(folder, 'running', `${name}.json`);

/** The program goes on writing at the end of the file that it has open, so that file is copied and emptied. */
function putAside(logFile: string): void {
  try {
    copyFileSync(logFile, `${logFile}.1`);
  } catch {
    // If the disk is full, the end of the log is better than nothing of it.
  }
  truncateSync(logFile);
}

/** Identifies the folder itself, by whatever name it goes now. */
function homeOf(folder: string): string {
  const { dev, ino } = statSync(folder);
  return `${dev}:${ino}`;
}

const textOf = (folder: string, one: Omit<Written, 'home'>): string =>
  JSON.stringify({ ...one, home: homeOf(folder) } satisfies Written);

const fileSize = (path: string): number => statSync(path, { throwIfNoEntry: false })?.size ?? 0;

/** The end of a program's log, to see why it did not start. */
export function endOfLog(folder: string, name: string): string {
  try {
    return readFileSync(logFileOf(folder, name), 'utf8').slice(-2_000).trim();
  } catch {
    return '';
  }
}

async function endGroup(group: number, ended: Promise<void>, withinMs: number): Promise<void> {
  signalGroup(group, 'SIGTERM');
  const impatient = setTimeout(() => signalGroup(group, 'SIGKILL'), withinMs);
  await ended;
  clearTimeout(impatient);
  // What the program started itself, if it left anything.
  signalGroup(group, 'SIGKILL');
}

function signalGroup(group: number, signal: NodeJS.Signals): void {
  try {
    process.kill(-group, signal);
  } catch {
    // Nobody is left in it.
  }
}

/** Writes this process down as well, so that a second stack on the same folder is refused. */
export async function writeDown(folder: string, name: string): Promise<void> {
  mkdirSync(join(folder, 'running'), { recursive: true });
  const began = (await beganAt(process.pid)) ?? '';
  writeFileSync(writtenOf(folder, name), textOf(folder, { name, group: process.pid, began }));
}

export const takeBack = (folder: string, name: string): void =>
  rmSync(writtenOf(folder, name), { force: true });

/** What is written down in the folder and still runs. */
export async function findRunning(folder: string): Promise<readonly { name: string; pid: number }[]> {
  const files = await readdir(join(folder, 'running')).catch(() => []);
  const all = await Promise.all(
    files.map(async (file) => {
      try {
        const one = JSON.parse(await readFile(join(folder, 'running', file), 'utf8')) as Written;
        const isOfFolder = one.home === undefined || one.home === homeOf(folder);
        const runs = isOfFolder && (await beganAt(one.group)) === one.began;
        return runs ? [{ name: one.name, pid: one.group }] : [];
      } catch {
        return [];
      }
    }),
  );
  return all.flat();
}

/** Ends what a killed stack left running. */
export async function endLeftovers(folder: string): Promise<readonly string[]> {
  const left = (await findRunning(folder)).filter(({ pid }) => pid !== process.pid);
  await Promise.all(
    left.map(async ({ name, pid }) => {
      await endGroup(pid, untilGone(pid), LEFTOVERS_MS_MAX);
      takeBack(folder, name);
    }),
  );
  return left.map(({ name }) => name);
}

/** The end of a process that is not our child can only be found by looking. */
export async function untilGone(pid: number): Promise<void> {
  while ((await beganAt(pid)) !== undefined) await delay(20);
}

/** When a process began, as the system counts it; undefined: there is none (a zombie is none). */
async function beganAt(pid: number): Promise<string | undefined> {
  if (platform() === 'linux') {
    const stat = readProcStat(pid);
    return stat === undefined || isEnded(stat) ? undefined : stat[19];
  }
  return run('ps', ['-o', 'lstart=', '-p', `${pid}`]).then(
    ({ stdout }) => stdout.trim() || undefined,
    () => undefined,
  );
}

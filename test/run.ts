// `npm test`: what will run, what cannot and why; then everything that can. A file's name says what it needs:
// `apply.pg.redis.test.ts` needs PostgreSQL and Redis, `scope.test.ts` nothing.
import { execFile, spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { globSync } from 'node:fs';
import { connect } from 'node:net';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { findJava, findMaven } from '../processes/stack/find-java.ts';
import { MARIADB, withMariaDb } from './harness/mariadb.ts';
import { FOLDER, startPostgresOfTheRun } from './harness/postgres-of-the-run.ts';
import { STACK, startStackOfTheRun } from './harness/stack-of-the-run.ts';
import { keepTemporaryFilesInMemory } from './harness/temporary-files.ts';

/** Whether somebody listens there, within a second. */
const answers = (target: { port: number; host: string } | { path: string }): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = connect({ ...target, timeout: 1_000 });
    const done = (is: boolean) => () => {
      socket.destroy();
      resolve(is);
    };
    socket.once('connect', done(true)).once('error', done(false)).once('timeout', done(false));
  });
const listens = (port: number): Promise<boolean> => answers({ port, host: '127.0.0.1' });

const runs = (program: string): Promise<boolean> =>
  new Promise((resolve) => {
    execFile(program, ['--version'], (error) => {
      resolve(error === null);
    });
  });

const anyOf = async (checks: readonly Promise<boolean>[]): Promise<boolean> =>
  (await Promise.all(checks)).includes(true);

type Kind = { readonly name: string; readonly needs: string; readonly isHere: () => Promise<boolean> };

/** By the part of a file's name. ABIDE_TEST_WITHOUT may list the names given here. */
const KINDS: Readonly<Record<string, Kind>> = {
  pg: { name: 'postgres', needs: 'PostgreSQL, embedded', isHere: startPostgres },
  redis: { name: 'redis', needs: 'Redis at 127.0.0.1:6379', isHere: () => listens(6379) },
  mariadb: {
    name: 'mariadb',
    needs: 'MariaDB at 127.0.0.1:3306 (root, no password)',
    isHere: () => withMariaDb(MARIADB, () => Promise.resolve(true)).catch(() => false),
  },
  curl: { name: 'curl', needs: 'curl', isHere: () => runs('curl') },
  stack: {
    name: 'stack',
    needs: 'a JDK 17 or later and Maven (npm run stack)',
    isHere: () =>
      Promise.all([findJava(process.env), findMaven(process.env)]).then(
        () => true,
        () => false,
      ),
  },
  containers: {
    name: 'containers',
    needs: 'a container engine',
    isHere: () =>
      anyOf(
        [
          '/var/run/docker.sock',
          join(homedir(), '.docker/run/docker.sock'),
          `/run/user/${process.getuid?.() ?? 0}/podman/podman.sock`,
        ].map((path) => answers({ path })),
      ),
  },
};

let postgres: Awaited<ReturnType<typeof startPostgresOfTheRun>> | undefined;
let whyNoPostgres: unknown;

/** It is started here and not by Jest, which leaves without teardown on Ctrl-C. */
async function startPostgres(): Promise<boolean> {
  try {
    postgres = await startPostgresOfTheRun();
    return true;
  } catch (error) {
    whyNoPostgres = error;
    return false;
  }
}

const jestProcesses = new Set<ChildProcess>();
let isInterrupted = false;
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => {
    isInterrupted = true;
    // The terminal has told Jest already.
    if (signal === 'SIGTERM' || !process.stdin.isTTY) for (const child of jestProcesses) child.kill(signal);
  });
}

const say = (line: string): boolean => process.stdout.write(`${line}\n`);

const partsOf = (file: string): string[] => file.split('/').at(-1)!.split('.').slice(1, -2);

/** Options of Jest that take no value from the argument after them. */
const IS_WHOLE = /^-(-verbose|i|-runInBand|-bail|-silent|-detectOpenHandles|-[a-zA-Z]+=.*)$/;

async function main(args: readonly string[]): Promise<number> {
  const files = globSync('test/**/*.test.ts');
  // After an option that takes a value, only Jest can say which arguments are patterns; then everything is made ready.
  const options = args.filter((arg) => arg.startsWith('-'));
  const patterns = args.filter((arg) => !arg.startsWith('-'));
  const isSelection = patterns.length > 0 && options.every((option) => IS_WHOLE.test(option));
  const selected = isSelection
    ? files.filter((file) => patterns.some((pattern) => file.includes(pattern)))
    : files;
  const used = Object.keys(KINDS).filter((part) => selected.some((file) => partsOf(file).includes(part)));
  const here = new Map(
    await Promise.all(used.map(async (part) => [part, await KINDS[part]!.isHere()] as const)),
  );
  const missing = used.filter((part) => here.get(part) === false);

  const count = (part: string): string => {
    const n = selected.filter((file) => partsOf(file).includes(part)).length;
    return `${n} ${n === 1 ? 'file' : 'files'}`;
  };
  const plain = selected.filter((file) => !partsOf(file).some((part) => part in KINDS)).length;
  say(`The plan: ${selected.length} files.`);
  say(`  ${plain} need nothing: run`);
  for (const part of used) {
    say(
      `  ${count(part)} with .${part}.: ${KINDS[part]!.needs}: ${here.get(part) ? 'here, run' : 'NOT HERE, LEFT OUT'}`,
    );
  }
  say('');
  if (whyNoPostgres !== undefined) console.error(whyNoPostgres);

  if (isInterrupted) return 130;
  const code = await runSuites(args, selected, missing);

  const forgiven = (process.env['ABIDE_TEST_WITHOUT'] ?? '').split(',').map((name) => name.trim());
  const unforgiven = missing.filter((part) => !forgiven.includes(KINDS[part]!.name));
  for (const part of missing) {
    const { name, needs } = KINDS[part]!;
    say(`\n!!! NOT RUN: ${count(part)} named *.${part}.*: this machine lacks ${needs} (${name}).`);
  }
  if (process.env['CI'] === 'true' && unforgiven.length > 0) {
    say('!!! CI=true: a suite that cannot run is a failure, unless ABIDE_TEST_WITHOUT names its kind.');
    return code === 0 ? 1 : code;
  }
  return code;
}

/** Parts of the suites that need no stack: small enough that three takers, one part after another, end at about the same time. */
const PARTS = 12;

/**
 * Suites that share the stack go one file after another, since they kill its processes and reconfigure them; mostly they wait for a
 * process that comes back. So the others run beside them, one part at a time, since a starting JVM needs a processor; once the
 * stack's are done, three at a time, since they wait for timers and processes for a third of their time. At a terminal they would
 * write over each other.
 */
async function runSuites(
  args: readonly string[],
  selected: readonly string[],
  missing: readonly string[],
): Promise<number> {
  const isOfStack = (file: string): boolean => partsOf(file).includes('stack');
  const ignore = (part: string): string => `--testPathIgnorePatterns=\\.${part}\\.(.+\\.)?test\\.ts$`;
  const leftOut = missing.map(ignore);
  const withStack = selected.some(isOfStack) && !missing.includes('stack');
  const others = selected.filter((file) => !isOfStack(file));
  // Jest refuses a pattern that fits nothing; together with options, it may fit only one part.
  const lenient = withStack && others.length > 0 ? ['--passWithNoTests'] : [];
  const ofOthers = async (...how: string[]): Promise<number> =>
    !isInterrupted && (others.length > 0 || selected.length === 0)
      ? await runJest([...leftOut, ignore('stack'), ...how, ...lenient, ...args])
      : 0;
  const ofStack = async (): Promise<number> => {
    if (!withStack || isInterrupted) return 0;
    const only = '--testPathIgnorePatterns=^((?!\\.stack\\.).)*$';
    return await onStack((found) => runJest([...leftOut, only, '--runInBand', ...lenient, ...args], found));
  };
  const codes: number[] = [];
  if (!withStack || process.stdout.isTTY) codes.push(await ofOthers('--maxWorkers=2'), await ofStack());
  else {
    const parts = Array.from({ length: PARTS }, (_, n) => `--shard=${n + 1}/${PARTS}`);
    const ofParts = async (): Promise<void> => {
      for (let part = parts.shift(); part !== undefined; part = parts.shift())
        codes.push(await ofOthers('--runInBand', part));
    };
    const ofStackAndParts = async (): Promise<void> => {
      codes.push(await ofStack());
      await Promise.all([ofParts(), ofParts()]);
    };
    await Promise.all([ofParts(), ofStackAndParts()]);
  }
  return codes.find((code) => code !== 0) ?? 0;
}

/** One stack for all suites that need it. On a machine that could run it, a stack that does not start makes them fail. */
async function onStack(run: (found: string) => Promise<number>): Promise<number> {
  say('The stack is started for its suites …');
  let stack: Awaited<ReturnType<typeof startStackOfTheRun>> | undefined;
  try {
    stack = await startStackOfTheRun();
  } catch (error) {
    console.error(error);
  }
  try {
    return isInterrupted ? 130 : await run(stack?.found ?? 'none');
  } finally {
    await stack?.stop();
  }
}

/** The exit code of Jest, which may say 130 for Ctrl-C. */
function runJest(args: readonly string[], stack = 'none'): Promise<number> {
  const node = ['--experimental-vm-modules', '--disable-warning=ExperimentalWarning'];
  const jest = ['node_modules/jest/bin/jest.js', ...args];
  const child = spawn(process.execPath, [...node, ...jest], {
    stdio: 'inherit',
    env: { ...process.env, [FOLDER]: postgres?.folder ?? 'none', [STACK]: stack },
  });
  jestProcesses.add(child);
  return new Promise((resolve) => {
    child.once('exit', (code) => {
      jestProcesses.delete(child);
      resolve(code ?? 130);
    });
  });
}

keepTemporaryFilesInMemory();
try {
  process.exitCode = await main(process.argv.slice(2));
} finally {
  await postgres?.stop();
}

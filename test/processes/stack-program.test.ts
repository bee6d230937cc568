import { once } from 'node:events';
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { findJava } from '../../processes/stack/find-java.ts';
import { findRunning, startProgram } from '../../processes/stack/program.ts';
import { stackStatus } from '../../processes/stack/running-stack.ts';
import { runAbide } from '../harness/abide.ts';
import { eventually } from '../harness/eventually.ts';

test('a program that cannot be written down runs, and it is said', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'abide-program-'));
  mkdirSync(join(folder, 'running', 'api.json'), { recursive: true });
  const printed: string[] = [];
  const program = startProgram({
    name: 'api',
    command: process.execPath,
    args: ['-e', 'setInterval(() => {}, 1_000)'],
    env: {},
    folder,
    print: (line) => printed.push(line),
  });
  try {
    await eventually(() => expect(printed.join()).toMatch(/api could not be written down.*EISDIR/));
    expect(program.pid).toBeDefined();
  } finally {
    rmSync(join(folder, 'running', 'api.json'), { recursive: true });
    await program.stop(2_000);
    rmSync(folder, { recursive: true });
  }
});

test('a program that keeps ending is started again, and what may help is said', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'abide-program-'));
  const printed: string[] = [];
  const program = startProgram({
    name: 'broker',
    command: process.execPath,
    args: ['-e', 'process.exit(1)'],
    env: {},
    folder,
    print: (line) => printed.push(line),
  });
  try {
    await eventually(() => expect(printed.length).toBeGreaterThan(2));
    expect(printed[0]).toMatch(
      /^abide: broker ended \(code 1\) and is started again; its log: \S+broker\.log$/,
    );
    expect(printed[2]).toMatch(/broker\.log\. It keeps ending: stop the stack and start it again$/);
  } finally {
    await program.stop(2_000);
    rmSync(folder, { recursive: true });
  }
});

// Only a start looked at the log's size: a program that ran for months, or failed all the time, filled the disk with its log.
test('the log of a program that runs is put aside when it is large', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'abide-program-'));
  const log = join(folder, 'logs', 'talks.log');
  const script = `process.stdout.write('x'.repeat(21 * 1024 * 1024) + '\\n', () => setInterval(() => console.log('on'), 20))`;
  const program = startProgram({
    name: 'talks',
    command: process.execPath,
    args: ['-e', script],
    env: {},
    folder,
    print: () => undefined,
  });
  try {
    await eventually(() => expect(statSync(`${log}.1`).size).toBeGreaterThan(20 * 1024 * 1024));
    await eventually(() => expect(readFileSync(log, 'utf8')).toMatch(/^(on\n)+$/));
  } finally {
    await program.stop(2_000);
    rmSync(folder, { recursive: true });
  }
});

// `abide stack stop` on the copy stopped the original, and so did a start.
test('what runs on a folder is found where that was moved, and not in a copy of it', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'abide-program-'));
  const [moved, copy] = [`${folder}-moved`, `${folder}-copy`];
  const program = startProgram({
    name: 'broker',
    command: process.execPath,
    args: ['-e', 'setInterval(() => {}, 1_000)'],
    env: {},
    folder,
    print: () => undefined,
  });
  try {
    await eventually(async () => expect(await findRunning(folder)).toHaveLength(1));
    cpSync(folder, copy, { recursive: true });
    renameSync(folder, moved);

    expect(await findRunning(copy)).toEqual([]);
    expect(await findRunning(moved)).toEqual([{ name: 'broker', pid: program.pid }]);
  } finally {
    await program.stop(2_000);
    for (const one of [moved, copy]) rmSync(one, { recursive: true, force: true });
  }
});

// After an upgrade no command found the stack that ran, and a start wrote over what told where it is.
test('what an older version, which wrote down no home, left running is found', async () => {
  const data = mkdtempSync(join(tmpdir(), 'abide-program-'));
  const written = join(data, 'stack/running/broker.json');
  const program = startProgram({
    name: 'broker',
    command: process.execPath,
    args: ['-e', 'setInterval(() => {}, 1_000)'],
    env: {},
    folder: join(data, 'stack'),
    print: () => undefined,
  });
  try {
    await eventually(() => expect(readFileSync(written, 'utf8')).toContain('home'));
    const { home: _home, ...older } = JSON.parse(readFileSync(written, 'utf8')) as { home: string };
    writeFileSync(written, JSON.stringify(older));

    const { output } = await runAbide(['stack', 'status', '--data', data]);
    expect(output).toMatch(new RegExp(`^broker +${program.pid} `, 'm'));
  } finally {
    await program.stop(2_000);
    rmSync(data, { recursive: true });
  }
});

test('a stack that does not run has no task, whoever answers at its ports by now', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'abide-program-'));
  const running = { connector: { state: 'RUNNING' }, tasks: [{ state: 'RUNNING' }] };
  const another = createServer((_, answer) => answer.end(JSON.stringify(running)));
  await once(another.listen(0, '127.0.0.1'), 'listening');
  try {
    const { port } = another.address() as AddressInfo;
    mkdirSync(join(folder, 'stack'));
    const ports = { broker: port, controller: port, connect: port, registry: port };
    writeFileSync(join(folder, 'stack/ports.json'), JSON.stringify(ports));

    expect(await stackStatus(folder)).toEqual({ programs: [], task: 'unknown' });
  } finally {
    another.close();
    rmSync(folder, { recursive: true });
  }
});

// It said that none was here, and to set JAVA_HOME.
test('where JAVA_HOME names no Java that runs it is named, although there is another one', async () => {
  const finding = findJava({ ...process.env, JAVA_HOME: '/nowhere' });

  await expect(finding).rejects.toThrow('/nowhere/bin/java does not run. JAVA_HOME names that one');
});

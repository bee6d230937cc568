// abide import-filter as an operator runs it, in front of an API.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { startAbide } from '../harness/abide.ts';
import type { AbideProcess } from '../harness/abide.ts';
import { eventually } from '../harness/eventually.ts';
import { createSend } from '../harness/http.ts';

const CLI = fileURLToPath(new URL('../../cli/abide.ts', import.meta.url));
const MIB = 1024 * 1024;

let abide: AbideProcess;
beforeAll(async () => {
  abide = await startAbide();
});
afterAll(async () => {
  await abide[Symbol.asyncDispose]();
});

const optOut = async (email: string): Promise<void> => {
  const { status } = await createSend(abide.url)('POST', '/v1/opt-outs', {
    key: abide.key,
    body: { subject: { email } },
  });
  expect(status).toBe(201);
};

/** The command, with its input under the test's control and its output counted in lines. */
const startFilter = (...args: readonly string[]) => startBehind([], ...args);

/** The same, run by another program. */
function startBehind(program: readonly string[], ...args: readonly string[]) {
  const [file, ...rest] = [
    ...program,
    process.execPath,
    '--disable-warning=ExperimentalWarning',
    CLI,
    'import-filter',
    ...args,
  ];
  const child = spawn(file!, rest, {
    env: { ...process.env, NODE_OPTIONS: '', ABIDE_URL: abide.url, ABIDE_KEY: abide.key },
  });
  let output = '';
  let errors = '';
  let lines = 0;
  let tail = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    if (output.length < MIB) output += text;
    lines += text.split('\n').length - 1;
    tail = text.at(-1) ?? tail;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => (errors += text));
  // Writing what it no longer reads fails here.
  child.stdin.on('error', () => undefined);
  const ended = new Promise<{ code: number | null; signal: NodeJS.Signals | null }>((resolve) =>
    child.once('close', (code, signal) => resolve({ code, signal })),
  );
  return {
    child,
    ended,
    output: () => output,
    errors: () => errors,
    lines: () => lines,
    endsWithRow: () => tail === '\n',
    send: async (text: string): Promise<void> => {
      if (!child.stdin.write(text))
        await Promise.race([once(child.stdin, 'drain'), ended]).catch(() => undefined);
    },
    peakMemory: async () => {
      const status = await readFile(`/proc/${child.pid}/status`, 'utf8').catch(() => '');
      return Number(/VmHWM:\s+(\d+) kB/.exec(status)?.[1] ?? 0) * 1024;
    },
  };
}
const rowOf = (n: number): string =>
  `${n},person-${n}@example.com,"a ""remark"" of\n${'some length '.repeat(80)}"\n`;

test('of 100,000 rows of a kilobyte those of suppressed people are missing, and memory stays small', async () => {
  const suppressed = [0, 7, 50_000, 99_999];
  for (const n of suppressed) await optOut(`person-${n}@example.com`);
  const filter = startFilter('--email-column', 'email');
  await filter.send('n,email,remark\n');
  let memory = 0;
  for (let n = 0; n < 100_000; n += 1_000) {
    await filter.send(Array.from({ length: 1_000 }, (_, i) => rowOf(n + i)).join(''));
    memory = Math.max(memory, await filter.peakMemory());
  }
  filter.child.stdin.end('100000,not an address,x\n');
  expect(await filter.ended).toEqual({ code: 3, signal: null });
  expect(filter.errors()).toBe(
    'line 200002: not an address or number that Abide can read\n100001 rows, 99996 kept, 4 dropped, 1 invalid\n',
  );
  expect(filter.lines()).toBe(1 + 2 * 99_996);
  expect(filter.output().slice(0, 5_000)).toBe(
    ['n,email,remark\n', ...Array.from({ length: 20 }, (_, n) => (suppressed.includes(n) ? '' : rowOf(n)))]
      .join('')
      .slice(0, 5_000),
  );
  // For a file of 100 MB. It is as much for one of 400 MB; a version that kept the rows had 427.
  expect(memory / MIB).toBeLessThan(330);
});

test('marked rows say why, and every row that is fine ends it with 0', async () => {
  await optOut('ada@example.com');
  const filter = startFilter('--email-column', 'email', '--mark', 'suppressed');
  filter.child.stdin.end('email\nADA@example.com\ngrace@example.com\n');
  expect(await filter.ended).toEqual({ code: 0, signal: null });
  expect(filter.output()).toBe('email,suppressed\nADA@example.com,opted_out\ngrace@example.com,\n');
  expect(filter.errors()).toBe('2 rows, 1 kept, 1 marked, 0 invalid\n');
});

test('a file in Latin-1 does not pass whoever is suppressed by an address beyond ASCII', async () => {
  await optOut('josé@example.com');
  const filter = startFilter('--email-column', 'email');
  filter.child.stdin.end(Buffer.from('email\njos\xe9@example.com\ngrace@example.com\n', 'latin1'));
  expect(await filter.ended).toEqual({ code: 3, signal: null });
  expect(filter.output()).toBe('email\ngrace@example.com\n');
  expect(filter.errors()).toBe(
    'line 2: an address or number that is not UTF-8\n2 rows, 1 kept, 0 dropped, 1 invalid\n',
  );
});

test('Ctrl-C ends it between two rows, and it says how far it came', async () => {
  const filter = startFilter('--email-column', 'email');
  await filter.send(`n,email,remark\n${Array.from({ length: 1_500 }, (_, n) => rowOf(n + 1_000)).join('')}`);
  await eventually(() => expect(filter.lines()).toBe(2_001));
  filter.child.kill('SIGINT');
  expect(await filter.ended).toEqual({ code: null, signal: 'SIGINT' });
  expect(filter.errors()).toMatch(/^\d+ rows, 1000 kept, 0 dropped, 0 invalid\n$/);
  expect(filter.endsWithRow()).toBe(true);
});

test('whoever was to read has gone: that is no success', async () => {
  const filter = startFilter('--email-column', 'email');
  filter.child.stdout.destroy();
  await filter.send(`email\n${'grace@example.com\n'.repeat(5_000)}`);
  filter.child.stdin.end();
  expect((await filter.ended).code).toBe(1);
  expect(filter.errors()).toContain('abide: Nothing reads the output any more.');
});

// Found by reading: it ended with 0, and the file ended within an address, which may be somebody else's. A limit to a file's size is
// a disk that fills up: what fits is written, and nothing says that the rest is missing.
test('a file that it cannot write to its end is no success', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'abide-filter-'));
  try {
    const file = join(folder, 'filtered.csv');
    const filter = startBehind(
      // Of 512 bytes, which is what \`ulimit\` counts in. What Node keeps of the compiled sources is larger.
      ['sh', '-c', 'unset NODE_COMPILE_CACHE; ulimit -f 1; exec "$@" > "$0"', file],
      '--email-column',
      'email',
    );
    filter.child.stdin.end(`email\n${'grace@example.com\n'.repeat(50)}`);
    expect(await filter.ended).toEqual({ code: 1, signal: null });
    expect(filter.errors()).toContain('abide: The output cannot be written. (EFBIG)\n');
    expect(await readFile(file, 'utf8')).toHaveLength(512);
  } finally {
    await rm(folder, { recursive: true });
  }
});

test('a file of numbers is asked about sms, unless it is told otherwise', async () => {
  const body = { subject: { phone: '+41791234567' }, scope: { sms: true } };
  const { status } = await createSend(abide.url)('POST', '/v1/opt-outs', { key: abide.key, body });
  expect(status).toBe(201);
  for (const [args, left] of [
    [['--phone-column', 'phone'], 'phone\n'],
    [['--phone-column', 'phone', '--channel', 'email'], 'phone\n+41791234567\n'],
  ] as const) {
    const filter = startFilter(...args);
    filter.child.stdin.end('phone\n+41791234567\n');
    expect(await filter.ended).toMatchObject({ code: 0 });
    expect(filter.output()).toBe(left);
  }
});

test('without a column to check by it does nothing', async () => {
  const filter = startFilter('--channel', 'sms');
  filter.child.stdin.end('email\n');
  expect((await filter.ended).code).toBe(2);
  expect(filter.output()).toBe('');
});

test('the API goes away midway: what was written was checked, and the end is a failure', async () => {
  const filter = startFilter('--email-column', 'email');
  await filter.send(`n,email,remark\n${Array.from({ length: 1_500 }, (_, n) => rowOf(n + 1_000)).join('')}`);
  await eventually(() => expect(filter.lines()).toBe(2_001));
  await abide.stop();
  await filter.send(Array.from({ length: 3_000 }, (_, n) => rowOf(n + 5_000)).join(''));
  filter.child.stdin.end();
  expect(await filter.ended).toEqual({ code: 1, signal: null });
  expect(filter.lines()).toBe(2_001);
  expect(filter.errors()).toMatch(/^\d+ rows, 1000 kept, 0 dropped, 0 invalid\nabide: Nobody answers at /);
});

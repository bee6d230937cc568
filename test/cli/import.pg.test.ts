// abide import as an operator runs it, against Abide as it runs for its users.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { appendFileSync } from 'node:fs';
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { RequestListener } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type pg from 'pg';
import type { Import } from '../../client/client.ts';
import { startAbide } from '../harness/abide.ts';
import type { AbideProcess } from '../harness/abide.ts';
import { eventually } from '../harness/eventually.ts';
import { freePort } from '../harness/free-port.ts';
import { csvOf } from '../api/v2/serving-imports.ts';

const CLI = fileURLToPath(new URL('../../cli/abide.ts', import.meta.url));
const ID = /^[0-9a-f-]{36}/m;
const APPROVE_ABOVE_ROWS = 4_000;
const CONFIG =
  `imports: { approve_above_rows: ${APPROVE_ABOVE_ROWS} }\ntopics: { email: [news] }\n` +
  "stores: { nobody: { connector: redis, url: 'redis://127.0.0.1:1', scopes: [email] } }\n";

let abide: AbideProcess;
let db: pg.Client;
let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'abide-import-'));
  abide = await startAbide({ args: ['--no-workers'], config: CONFIG });
  db = await abide.connect();
  // While `held` has a row, nothing beyond its `rows` is recorded.
  await db.query(`
    create schema test;
    create table test.held (rows int not null);
    create function test.hold() returns trigger language plpgsql security definer as $$ begin
      while exists (select from test.held where new.rows_done > held.rows) loop perform pg_sleep(0.02); end loop;
      return new;
    end $$;
    create trigger hold before update on imports for each row when (new.rows_done > old.rows_done) execute function test.hold()`);
});
afterAll(async () => {
  await db.end();
  await abide[Symbol.asyncDispose]();
  await rm(folder, { recursive: true });
});

async function file(name: string, text: string): Promise<string> {
  const path = join(folder, name);
  await writeFile(path, text);
  return path;
}
let people = 0;
/** A file of people who were in no file before. */
const someCsv = (rows: number): string => csvOf(rows, (people += rows) - rows);

/** How far it is, in a line that comes every five seconds: on a busy machine any command may take longer. */
const PROGRESS = /^(?:sending|waiting for its turn|counting|recording)\b.*\n/gm;

/** The command, with its input under the test's control. At its end nothing is left of its progress. */
function start(args: readonly string[], env: Readonly<Record<string, string>> = {}) {
  const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', CLI, 'import', ...args], {
    env: {
      ...process.env,
      NODE_OPTIONS: '',
      ABIDE_CONFIG: '',
      ABIDE_URL: abide.url,
      ABIDE_DATA: abide.dataFolder,
      ...env,
    },
  });
  let output = '';
  let errors = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (errors += text));
  child.stdin.on('error', () => undefined);
  const ended = once(child, 'close').then(([code, signal]) => ({
    code: code as number | null,
    signal: signal as NodeJS.Signals | null,
    output,
    errors: errors.replaceAll(PROGRESS, ''),
  }));
  return { child, ended, output: () => output, errors: () => errors };
}
async function run(...args: string[]) {
  const { child, ended } = start(args);
  child.stdin.end();
  return await ended;
}
async function runWithKey(key: string, ...args: string[]) {
  const { child, ended } = start(args, { ABIDE_KEY: key });
  child.stdin.end();
  return await ended;
}
const idOf = ({ errors }: { errors: string }): string => ID.exec(errors)![0];

async function keyFor(client: string, ...scopes: string[]): Promise<string> {
  const args = ['keys', 'create', '--client', client, '--scope', ...scopes, '--data', abide.dataFolder];
  const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', CLI, ...args], {
    env: { ...process.env, NODE_OPTIONS: '', ABIDE_CONFIG: join(abide.dataFolder, 'abide.yaml') },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let output = '';
  child.stdout.on('data', (text: Buffer) => (output += text.toString()));
  await once(child, 'close');
  return output.trim();
}

const imports = async (where = 'true'): Promise<number> =>
  (await db.query(`select from imports where ${where}`)).rowCount!;
const hold = (rows: number) => db.query('insert into test.held values ($1)', [rows]);
const release = () => db.query('delete from test.held');
const suppressed = async (): Promise<number> => (await db.query('select from opt_outs')).rowCount!;

const FAULTY =
  'email,phone,scopes\nada@example.com,+41791234567,sms\nnobody,12,\n,,email\nbob@example.com,,\n';

describe('a file', () => {
  test('is recorded; rows that were not taken are named, and the exit code says that there are some', async () => {
    const path = await file('faulty.csv', FAULTY);
    const ran = await run(path, '--scopes', 'email');
    const id = idOf(ran);
    expect(ran.errors).toBe(`${id}: received, 4 rows\n`);
    expect(ran.output).toBe(
      '4 rows: 2 recorded, 0 already, 2 invalid\n' +
        '  row 2 (line 3): email cannot be read as an email address\n' +
        '  row 2 (line 3): phone cannot be read as a phone number\n' +
        '  row 3 (line 4): nobody is named\n',
    );
    expect(ran.code).toBe(3);

    const again = await run(path, '--scopes', 'email');
    expect(again).toMatchObject({ code: 3, output: ran.output });
    expect(again.errors).toMatch(
      new RegExp(
        `^${id}: the same file was received at 20\\S+Z already, and is this import\nrows that were not taken are tried again .* a file of their own\n$`,
      ),
    );
    const status = await run('status', id);
    expect(status).toMatchObject({ code: 3, output: ran.output, errors: '' });
  });

  test('of which every row is taken ends with 0', async () => {
    expect(await run(await file('fine.csv', someCsv(2_500)), '--scopes', 'email')).toMatchObject({
      code: 0,
      output: '2500 rows: 2500 recorded, 0 already, 0 invalid\n',
    });
  });

  test('may be tried before: a dry run counts, and records nothing', async () => {
    const path = await file('dry.csv', `${someCsv(10)}nobody\nada@example.com\n`);
    await run(await file('ada.csv', 'email\nada@example.com\n'), '--scopes', 'email');
    const before = await suppressed();
    const dry = await run(path, '--scopes', 'email', '--dry-run');
    expect(dry.output).toBe(
      '12 rows: 10 would be recorded, 1 already, 1 invalid (dry run: nothing is recorded)\n' +
        '  row 11 (line 12): email cannot be read as an email address\n',
    );
    expect([dry.code, await suppressed()]).toEqual([3, before]);
    const real = await run(path, '--scopes', 'email');
    expect(real.output).toMatch(/^12 rows: 10 recorded, 1 already, 1 invalid\n/);
  });

  test.each([
    ['rows.ndjson', []],
    ['rows.jsonl', []],
    ['rows.txt', ['--format', 'ndjson']],
  ])('called %s with %j is one JSON object a line', async (name, options) => {
    const path = await file(name, `{"email":"${name}@example.com","scopes":["email"]}\n`);
    expect(await run(path, ...options)).toMatchObject({
      code: 0,
      output: '1 rows: 1 recorded, 0 already, 0 invalid\n',
    });
  });

  test('may come from standard input, and says by its options what its rows do not', async () => {
    const { child, ended } = start([
      '-',
      '--format=csv',
      '--scopes=sms, email/news',
      '--reason=legal',
      '--effective-at=2026-01-02T04:04:05+01:00',
      '--json',
    ]);
    child.stdin.end('phone\n+41791234599\n');
    const { code, output } = await ended;
    expect(code).toBe(0);
    expect(JSON.parse(output)).toMatchObject({
      object: 'import',
      state: 'done',
      scopes: ['sms', 'email/news'],
      reason: 'legal',
      effective_at: '2026-01-02T03:04:05.000Z',
      counts: { recorded: 1, already: 0, invalid: 0 },
    });
  });

  test('whose errors are many: the first are shown, and all are written to a new file', async () => {
    const path = await file('many.csv', `email\n${'nobody\n'.repeat(1_500)}`);
    const to = join(folder, 'errors.csv');
    const shown = await run(path, '--scopes', 'email');
    const id = idOf(shown);
    expect(shown.output.split('\n')).toHaveLength(1 + 5 + 1 + 1);
    expect(shown.output).toContain(`  and 1495 more: abide import status ${id} --errors-to FILE\n`);

    const written = await run(path, '--scopes', 'email', '--errors-to', to);
    expect(written).toMatchObject({ code: 3, output: '1500 rows: 0 recorded, 0 already, 1500 invalid\n' });
    expect(written.errors).toContain(`${to} has all 1500 errors\n`);
    const lines = (await readFile(to, 'utf8')).split('\n');
    expect(lines.slice(0, 3)).toEqual(['row,line,column,code', '1,2,email,invalid', '2,3,email,invalid']);
    expect(lines).toHaveLength(1_502);

    const over = await run(path, '--scopes', 'email', '--errors-to', to);
    expect(over).toMatchObject({ code: 1, errors: `abide: ${to} exists already.\n` });
    // Checked before anything is sent: otherwise the rows would be recorded by then.
    const nowhere = join(folder, 'misspelt', 'errors.csv');
    const bob = await file('bob.csv', 'email\nbob@example.com\nnobody\n');
    expect(await run(bob, '--scopes', 'email', '--errors-to', nowhere)).toMatchObject({
      code: 1,
      output: '',
      errors: `abide: ${nowhere} cannot be written: its folder does not exist, or you may not write to it. (ENOENT)\n`,
    });
    const other = join(folder, 'errors-later.csv');
    expect((await run('status', id, '--errors-to', other)).code).toBe(3);
    expect(await readFile(other, 'utf8')).toBe(await readFile(to, 'utf8'));
  });

  test('need not be waited for', async () => {
    await hold(0);
    const ran = await run(await file('later.csv', someCsv(3)), '--scopes', 'email', '--no-wait');
    const id = idOf(ran);
    expect(ran.code).toBe(0);
    expect(ran.output).toMatch(
      new RegExp(
        `^${id}: (pending|running), 0 of 3 rows\n0 rows: 0 recorded, 0 already, 0 invalid\nhow far it is: abide import status ${id}\n$`,
      ),
    );
    await release();
    expect(await run('status', id, '--wait')).toMatchObject({
      code: 0,
      output: '3 rows: 3 recorded, 0 already, 0 invalid\n',
    });
  });
});

describe('a large file', () => {
  test('waits, and says what to type; another key lets it begin, the one that sent it does not', async () => {
    const rows = APPROVE_ABOVE_ROWS + 1;
    const sent = await run(await file('large.csv', someCsv(rows)), '--scopes', 'email');
    const id = idOf(sent);
    expect(sent.code).toBe(4);
    const commands = sent.output.split('\n').filter((line) => line.startsWith('  abide '));
    expect(commands).toEqual([
      `  abide import approve ${id}`,
      '  abide keys create --client NAME --scope imports:approve',
      `  abide import cancel ${id}`,
    ]);
    expect(await run('status', id)).toMatchObject({ code: 4, output: sent.output });

    const own = await run('approve', id);
    expect(own).toMatchObject({ code: 1, output: '' });
    expect(own.errors).toMatch(
      /^abide: The key that sent it cannot approve it: .*\n.*--scope imports:approve/,
    );
    const mute = await runWithKey(await keyFor('colleague', 'imports:write'), 'approve', id);
    expect(mute.errors).toMatch(/lacks the scope imports:approve.*--client NAME --scope imports:approve/);

    const approved = await runWithKey(await keyFor('colleague', 'imports:approve'), 'approve', id);
    expect(approved).toMatchObject({
      code: 0,
      output: `${id}: approved, ${rows} rows of administrator. How far it is: abide import status ${id}\n`,
    });
    expect(await run('status', id, '--wait')).toMatchObject({
      code: 0,
      output: `${rows} rows: ${rows} recorded, 0 already, 0 invalid\n`,
    });
    const late = await run('cancel', id);
    expect(late).toMatchObject({ code: 3, output: `${id}: The import is done.\n` });
  });

  test('can be cancelled', async () => {
    const rows = APPROVE_ABOVE_ROWS + 1;
    const id = idOf(await run(await file('cancelled.csv', someCsv(rows)), '--scopes', 'email', '--no-wait'));
    expect(await run('cancel', id)).toMatchObject({
      code: 0,
      output: `${id}: cancelled, and none of its ${rows} rows is recorded\n`,
    });
    expect(await run('status', id)).toMatchObject({ code: 3, output: `${id}: cancelled, nothing of it is recorded\n` }); // prettier-ignore
    const listed = await run('list', '--state', 'cancelled', '--json');
    expect((JSON.parse(listed.output) as Import[]).map((one) => one.id)).toEqual([id]);
    const table = await run('list', '--limit', '1');
    expect(table.output).toMatch(new RegExp(`^ID +STATE .*\n${id} +cancelled +administrator .*\n$`));
  });
});

describe('whoever watches', () => {
  test('without a terminal reads a line now and then, and may go: the import goes on by itself', async () => {
    await hold(2_000);
    const path = await file('watched.csv', someCsv(2_500));
    const watching = start([path, '--scopes', 'email']);
    await eventually(() => expect(watching.errors()).toMatch(/^recording: 80% {2}2000 of 2500 rows/m));
    expect(watching.errors()).not.toContain('\r');
    watching.child.kill('SIGINT');
    const { code, signal, errors, output } = await watching.ended;
    expect({ code, signal, output }).toEqual({ code: null, signal: 'SIGINT', output: '' });
    const id = idOf({ errors });
    expect(errors).toMatch(
      new RegExp(`\ninterrupted: the import goes on by itself: abide import status ${id}\n$`),
    );
    const running = await run('status', id);
    // Found by reading: it was 0, and `until abide import status ID; do sleep 5; done` did not wait.
    expect(running.code).toBe(4);
    expect(running.output).toMatch(
      new RegExp(`^${id}: running, 2000 of 2500 rows\n2000 rows: 2000 recorded`),
    );

    await release();
    expect(await run('status', id, '--wait')).toMatchObject({
      code: 0,
      output: '2500 rows: 2500 recorded, 0 already, 0 invalid\n',
    });
  });

  test('interrupts a file that is being sent: nothing of it is recorded', async () => {
    const before = await imports();
    const sending = start(['-', '--format', 'csv', '--scopes', 'email']);
    sending.child.stdin.write(someCsv(100));
    await eventually(async () => expect(await imports("state = 'receiving'")).toBe(1));
    sending.child.kill('SIGINT');
    const { code, signal, output, errors } = await sending.ended;
    expect({ code, signal, output }).toEqual({ code: null, signal: 'SIGINT', output: '' });
    expect(errors).toBe('interrupted: nothing of standard input was recorded\n');
    await eventually(async () => expect(await imports()).toBe(before));
  });

  test('sees it through a restart', async () => {
    await hold(2_000);
    const watching = start([await file('restarted.csv', someCsv(2_500)), '--scopes', 'email']);
    await eventually(async () => expect(await imports("state = 'running' and rows_done = 2000")).toBe(1));
    await abide.kill();
    await release();
    await abide.start();
    expect(await watching.ended).toMatchObject({
      code: 0,
      output: '2500 rows: 2500 recorded, 0 already, 0 invalid\n',
    });
  });
});

/** Root may read every file. */
const asUser = process.getuid?.() === 0 ? test.skip : test;

describe('what is wrong is said in words', () => {
  const reject = async (name: string, text: string, ...options: string[]) => {
    const path = await file(name, text);
    const { code, output, errors } = await run(path, ...options);
    expect([code, output]).toEqual([1, '']);
    return errors.replaceAll(path, name);
  };

  test('of a column that nobody knows', async () => {
    const said = await reject('typo.csv', 'email,scope\nada@example.com,sms\n', '--scopes', 'email');
    expect(said).toMatch(
      /^abide: typo\.csv \(read as CSV\) was not taken, and nothing was recorded:\n {2}the column scope is not known here: the columns are email, .*\n$/,
    );
  });

  test('of a file without a header', async () => {
    const said = await reject('bare.csv', 'ada@example.com\n', '--scopes', 'email');
    expect(said).toContain('its name may be an address and is not shown: is there a header?\n');
    expect(said).not.toContain('ada@example.com');
  });

  test('of rows that nobody gave scopes', async () => {
    const said = await reject('scopeless.csv', 'email\nada@example.com\n');
    expect(said).toMatch(/the column scopes is missing.*: --scopes "email sms" gives them\n$/);
  });

  test('of a scope that is not declared', async () => {
    const said = await reject('undeclared.csv', 'email\n', '--scopes', 'email email/offers');
    expect(said).toContain('--scopes: email/offers is not declared in the configuration');
  });

  test('of a file that cannot be read as one, with its line', async () => {
    const said = await reject(
      'broken.csv',
      'email\nada@example.com\n"bob@example.com\n',
      '--scopes',
      'email',
    );
    expect(said).toMatch(
      /^abide: broken\.csv \(read as CSV\): Line \d: a quote .*Nothing of the file was recorded\.\n$/,
    );
  });

  test('of a key that may not', async () => {
    const path = await file('key.csv', csvOf(1));
    const mute = await runWithKey(await keyFor('shop', 'checks:read'), path, '--scopes', 'email');
    expect(mute.code).toBe(1);
    expect(mute.errors).toMatch(
      /lacks the scope .* `abide keys create --client NAME --scope imports:write` makes one that has it: give it by --key or ABIDE_KEY\.\n$/,
    );
    const unknown = await runWithKey(`${abide.key.slice(0, -1)}!`, path, '--scopes', 'email');
    expect(unknown.errors).toMatch(/^abide: The API answered 401: it does not know the key/);
  });

  test('where nobody answers', async () => {
    const { child, ended } = start([await file('nobody.csv', csvOf(1)), '--scopes', 'email'], {
      ABIDE_URL: `http://127.0.0.1:${await freePort()}`,
    });
    child.stdin.end();
    const { code, errors } = await ended;
    expect([code, errors]).toEqual([1, expect.stringMatching(/^abide: Nobody answers at http:.*ABIDE_URL/)]);
  });

  test('of a file that is not there, or is none', async () => {
    const nowhere = join(folder, 'nowhere.csv');
    expect(await run(nowhere)).toMatchObject({
      code: 1,
      errors: `abide: ${nowhere} cannot be read: there is no such file. (ENOENT)\n`,
    });
    expect(await run(folder)).toMatchObject({
      code: 1,
      errors: `abide: ${folder} cannot be read: it is a folder.\n`,
    });
  });

  asUser('of a file that its user may not read', async () => {
    const closed = await file('closed.csv', csvOf(1));
    await chmod(closed, 0);
    expect((await run(closed)).errors).toBe(
      `abide: ${closed} cannot be read: you may not read it. (EACCES)\n`,
    );
  });

  test('of an import that is not there', async () => {
    const id = '00000000-0000-7000-8000-000000000000';
    const [status, approve, cancel] = [
      await run('status', id),
      await run('approve', id),
      await run('cancel', 'x'),
    ];
    expect(status).toMatchObject({ code: 3, output: `no import ${id}, or it is another client's\n` });
    expect(approve).toMatchObject({ code: 3, output: status.output });
    expect(cancel.code).toBe(3);
    // Output that a script gives to a JSON parser has no words in it.
    for (const ran of [await run('status', id, '--json'), await run('cancel', id, '--json')])
      expect(ran).toMatchObject({ code: 3, output: '', errors: status.output });
  });

  test.each([
    [['-'], '--format csv or ndjson'],
    [['opt-outs.csv', '--effective-at', 'yesterday'], 'Give a time with an offset'],
    [['opt-outs.csv', '--reason', 'because'], 'Allowed choices are person_request'],
    [['opt-outs.csv', '--no-wait', '--errors-to', 'x'], '--errors-to needs the end'],
    [['opt-outs.csv', 'another.csv'], 'too many arguments'],
    [[], "missing required argument 'file'"],
  ])('of %j, and nobody is asked', async (args, said) => {
    const { code, errors } = await run(...args);
    expect([code, errors]).toEqual([2, expect.stringContaining(said)]);
  });
});

describe('a server that is slow', () => {
  /** Another server in the API's place: lists nothing, and takes a file as `post` says. */
  async function instead<T>(post: RequestListener, use: (url: string) => Promise<T>): Promise<T> {
    const server = createServer((request, response) => {
      if (request.method === 'POST') return post(request, response);
      response.setHeader('content-type', 'application/json');
      response.end(JSON.stringify({ object: 'list', imports: [], next_cursor: null }));
    });
    await once(server.listen(0, '127.0.0.1'), 'listening');
    try {
      return await use(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
    } finally {
      server.closeAllConnections();
      server.close();
    }
  }

  test('and a file that changes meanwhile: it has no end, and that is said', async () => {
    const path = await file('growing.csv', `email\n${'ada@example.com\n'.repeat(2_000_000)}`);
    let isWhole: boolean | undefined;
    await instead(
      (request) => {
        appendFileSync(path, 'bob@example.com\n');
        request.on('close', () => (isWhole = request.complete)).resume();
      },
      async (url) => {
        const { child, ended } = start([path, '--scopes', 'email'], { ABIDE_URL: url });
        child.stdin.end();
        const { code, errors } = await ended;
        expect([code, errors.split('\n').at(-2)]).toEqual([
          1,
          `abide: ${path} changed while it was sent, and nothing was recorded: is it still being written? Send it again once it is whole.`,
        ]);
        await eventually(() => expect(isWhole).toBe(false));
      },
    );
  });

  test('and whoever waits interrupts it before the answer: what became of the file is not known, and that is said', async () => {
    const path = await file('unanswered.csv', csvOf(10));
    let isWhole = false;
    await instead(
      (request) => request.on('end', () => (isWhole = true)).resume(),
      async (url) => {
        const { child, ended } = start([path, '--scopes', 'email'], { ABIDE_URL: url });
        child.stdin.end();
        await eventually(() => expect(isWhole).toBe(true));
        child.kill('SIGINT');
        const { signal, errors } = await ended;
        expect(signal).toBe('SIGINT');
        expect(errors).toBe(
          `interrupted: it is not known whether ${path} arrived: \`abide import list\` shows it, and the same file sent again is the same import\n`,
        );
      },
    );
  });
});

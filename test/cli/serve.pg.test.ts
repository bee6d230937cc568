// What stops a start, said so that its reader knows what to do; and who may leave while it runs.
import { spawn } from 'node:child_process';
import { mkdtemp, open, readFile, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { runAbide, spawnAbide, startAbide } from '../harness/abide.ts';
import type { AbideProcess } from '../harness/abide.ts';
import { eventually } from '../harness/eventually.ts';
import { freePort } from '../harness/free-port.ts';
import { createSend, WHEN_COMPLETE } from '../harness/http.ts';

let folder: string;
let abide: AbideProcess;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'abide-serve-'));
  abide = await startAbide();
});
afterAll(async () => {
  await abide[Symbol.asyncDispose]();
  await rm(folder, { recursive: true, force: true });
});

const isThere = (path: string): Promise<boolean> =>
  stat(path).then(
    () => true,
    () => false,
  );
const config = async (text: string): Promise<string> => {
  const file = join(folder, 'abide.yaml');
  await writeFile(file, text);
  return file;
};

test('a port that is taken is named with what to do, and nothing is left running', async () => {
  await using taken = createServer();
  await new Promise<void>((resolve) => taken.listen(0, '127.0.0.1', resolve));
  const port = String((taken.address() as AddressInfo).port);
  const data = join(folder, 'taken');

  const { code, output } = await runAbide(['serve', '--data', data], { PORT: port });

  expect(code).toBe(1);
  expect(output).toContain(
    `abide: Cannot listen on 127.0.0.1 port ${port}: another process listens there; start with PORT=… or change`,
  );
  expect(await isThere(join(data, 'postgres/postmaster.pid'))).toBe(false);
});

// A second one while it stopped ended it at once, and left the database behind.
test('errors that nobody catches stop it with everything that it started, and are said at every log level, without their words', async () => {
  const throws = `setInterval(() => {
    if (process.listenerCount('uncaughtException') > 0) throw new Error('about eve@example.net');
  }, 20);`;
  const NODE_OPTIONS = `--import=data:text/javascript,${encodeURIComponent(throws)}`;
  const args = ['serve', '--data', join(folder, 'throws')];

  for (const [level, place] of [
    ['silent', undefined],
    ['error', '"at":["    at '],
  ] as const) {
    const { code, output } = await runAbide(args, { PORT: '0', ABIDE_LOG: level, NODE_OPTIONS });
    expect(code).toBe(1);
    expect(output).toContain('abide: stopping after an uncaught error, which is a defect');
    if (place !== undefined) expect(output).toContain(place);
    expect(output).not.toContain('eve@');
  }
  expect(await isThere(join(folder, 'throws/postgres/postmaster.pid'))).toBe(false);
});

// It ended the API with all its workers, as often as it was started: the decision was carried again.
test("what a connector of one's own leaves to nobody ends nothing, and is in the log without its words", async () => {
  const example = await readFile(new URL('../../docs/examples/sqlite-store.ts', import.meta.url), 'utf8');
  const stray =
    'const lost = `cannot write ${batch[0]!.key}`; void Promise.reject(new Error(lost)); setTimeout(() => { throw lost; }, 0);';
  const file = example.replace('const database = writing();', (line) => stray + line);
  expect(file).toContain(stray);
  await writeFile(join(folder, 'stray.ts'), file);
  await using own = await startAbide({
    config: `stores:\n  odd: { connector: ${join(folder, 'stray.ts')}, file: ${join(folder, 'stray.db')}, scopes: [email] }\n`,
  });
  for (const email of ['ada@example.com', 'bob@example.com']) {
    const { json } = await createSend(own.url)('POST', '/v1/opt-outs', {
      key: own.key,
      headers: WHEN_COMPLETE,
      body: { subject: { email } },
    });
    expect(json.propagation.state).toBe('complete');
  }
  expect(own.output).toContain("a connector's file left a failure to nobody: await it, or catch it");
  expect(own.output).not.toContain('cannot write');
});

test('a second start on the same folder is refused, and the first goes on', async () => {
  const { code, output } = await runAbide(['serve', '--data', abide.dataFolder], { PORT: '0' });

  expect(code).toBe(1);
  expect(output).toContain(
    `Another Abide runs on ${abide.dataFolder}: stop it, or set ABIDE_DATA to another`,
  );
  // The other Abide's server has a log, which says nothing about this.
  expect(output).not.toContain('log');
  expect((await createSend(abide.url)('GET', '/readyz')).status).toBe(200);
});

test('a data folder that cannot be one is named', async () => {
  const file = join(folder, 'a-file');
  await writeFile(file, '');

  for (const data of [file, join(file, 'below')]) {
    const { code, output } = await runAbide(['serve', '--data', data], { PORT: '0' });
    expect(code).toBe(1);
    expect(output).toMatch(
      new RegExp(
        `abide: The data folder ${data} cannot be used \\(E[A-Z]+\\): name another one by ABIDE_DATA`,
      ),
    );
  }
});

test('a wrong abide.yaml is named line by line before anything is started', async () => {
  const file = await config('stores:\n  crm: { connector: postgres, scopes: [fax] }\n');
  const data = join(folder, 'never');

  const { code, output } = await runAbide(['serve', '--config', file, '--data', data], { PORT: '0' });

  expect(code).toBe(1);
  expect(output.split('\n').slice(1)).toEqual([
    `abide: ${file} is wrong:`,
    '  line 2, column 8: stores.crm.url must be a postgres:// URL',
    '  line 2, column 40: stores.crm.scopes.0 fax is not a scope: email, sms, push, a topic such as email/newsletter, or a purpose',
    '  Fix what is named, and try it with `abide config check`. (CONFIG_INVALID)',
    '',
  ]);
  expect(await readdir(data)).toEqual([]);
});

test('beyond loopback nothing is made up: it starts only with a ring and a key that were given', async () => {
  const file = await config('listen: 0.0.0.0:0\nops_listen: 127.0.0.1:0\nstores: {}\n');
  const data = join(folder, 'wide');
  const serve = (env: Record<string, string>) => runAbide(['serve', '--config', file, '--data', data], env);

  const bare = await serve({ ABIDE_KEYS: '', ABIDE_ADMIN_KEY: '' });
  expect(bare.code).toBe(1);
  expect(bare.output).toMatch(
    /makes no secrets of its own: set ABIDE_KEYS .*abide keys ring.* and ABIDE_ADMIN_KEY/,
  );
  // `config check` says so before, and the start that was refused leaves no database behind.
  const checked = await runAbide(['config', 'check', '--config', file], { ABIDE_DATA: data });
  expect([checked.code, checked.output]).toEqual([
    0,
    expect.stringMatching(
      /^configuration: fine, 0 store\(s\)\nbefore it starts: .*set ABIDE_KEYS .* and ABIDE_ADMIN_KEY/,
    ),
  ]);
  expect(await readdir(data)).toEqual([]);
  const ABIDE_KEYS = (await runAbide(['keys', 'ring'])).stdout;
  const keyless = await serve({ ABIDE_KEYS });
  expect(keyless.code).toBe(1);
  expect(keyless.output).toMatch(/makes no secrets of its own: set ABIDE_ADMIN_KEY \(`abide keys token`/);
  expect(await readdir(data)).toEqual([]);
  const wrong = await serve({ ABIDE_KEYS, ABIDE_ADMIN_KEY: 'secret' });
  expect(wrong.code).toBe(1);
  expect(wrong.output).toContain(
    'abide: ABIDE_ADMIN_KEY cannot be used: That is not an Abide key. `abide keys token` prints a new one.',
  );
  expect(wrong.output).not.toContain('secret');

  const ABIDE_ADMIN_KEY = (await runAbide(['keys', 'token'])).stdout.trim();
  const { child, ended, output } = spawnAbide(['serve', '--config', file, '--data', data], {
    ABIDE_KEYS,
    ABIDE_ADMIN_KEY,
  });
  const url = await eventually(() => {
    expect(output()).toContain('ready after');
    return /listening at (\S+)/.exec(output())![1]!;
  });
  const { status } = await createSend(url)('GET', '/v1/propagation-lag', { key: ABIDE_ADMIN_KEY });
  expect(status).toBe(200);
  child.kill('SIGTERM');
  expect(await ended).toBe(0);
  // Others keep and read a server's output: it contains no secret, and an address that can be called.
  expect(output()).not.toContain(ABIDE_ADMIN_KEY);
  expect(output()).toMatch(/^abide: listening at http:\/\/127\.0\.0\.1:\d+ \(and at every other address/m);
  expect(output()).toMatch(
    /^ {2}curl -s http:\/\/127\.0\.0\.1:\d+\/v1\/opt-outs -H "Authorization: Bearer \$ABIDE_ADMIN_KEY" /m,
  );
  // What was given is not kept.
  expect(await readdir(data)).not.toEqual(expect.arrayContaining(['keys.json']));
  expect(await readdir(data)).not.toEqual(expect.arrayContaining(['admin.key']));
});

test('secrets that an earlier start on loopback kept are used beyond it, and none of them is printed', async () => {
  await using old = await startAbide();
  await old.stop();
  const file = await config('listen: "[::]:0"\nops_listen: 127.0.0.1:0\nstores: {}\n');
  const { child, ended, output } = spawnAbide(['serve', '--config', file, '--data', old.dataFolder], {});
  await eventually(() => expect(output()).toContain('ready after'));
  child.kill('SIGTERM');
  expect(await ended).toBe(0);

  expect(output()).not.toContain(old.key);
  expect(output()).toMatch(/curl -s http:\/\/\[::1\]:\d+\/v1\/opt-outs /);
  expect(output()).toContain(`"Authorization: Bearer $(cat '${join(old.dataFolder, 'admin.key')}')"`);
});

test("an administrator's key that is older than a scope stays without it, and every start says so", async () => {
  await using old = await startAbide();
  expect(old.output).not.toContain('older than these scopes');
  const client = await old.connect();
  await client.query("update api_keys set scopes = array_remove(scopes, 'stores:write')");
  await client.end();
  await old.stop();
  await old.start();
  expect(old.output).toMatch(
    /"scopes":\["stores:write"\].*"the administrator's key is older than these scopes/,
  );
  const retry = await createSend(old.url)('POST', '/v1/stores/crm/quarantine/retry', {
    key: old.key,
    body: { all: true },
  });
  expect([retry.status, retry.json.detail]).toEqual([403, 'The key lacks the scope stores:write.']);

  const made = await runAbide(['keys', 'create', '--client', 'ops', '--scope', 'stores:write'], {
    ABIDE_DATA: old.dataFolder,
  });
  const allowed = await createSend(old.url)('POST', '/v1/stores/crm/quarantine/retry', {
    key: made.stdout.trim(),
    body: { all: true },
  });
  expect([allowed.status, allowed.json]).toEqual([200, { retried: 0 }]);
});

test("the administrator's key is rotated and kept like the old one; once it is revoked, a start names the file", async () => {
  await using own = await startAbide();
  const [old, file] = [own.key, join(own.dataFolder, 'admin.key')];
  const keys = (...args: string[]) => runAbide(['keys', ...args, '--data', own.dataFolder]);
  const rotated = await keys('rotate', old.split('_')[2]!, '--overlap', '0s');
  expect(rotated).toMatchObject({ code: 0, stdout: expect.stringMatching(/^abide_live_\S+\n$/) });
  expect(rotated.output).toContain(`${file} keeps the new key\n`);
  expect(rotated.stdout).toBe(await readFile(file, 'utf8'));
  expect((await stat(file)).mode & 0o777).toBe(0o600);
  const lag = await runAbide(['lag'], { ABIDE_DATA: own.dataFolder, ABIDE_URL: own.url });
  expect(lag.code).toBe(0);

  // Another client's key stays out of the file.
  const [, , shop] = (await keys('create', '--client', 'shop', '--scope', 'opt_outs:write')).stdout.split(
    '_',
  );
  expect((await keys('rotate', shop!)).code).toBe(0);
  expect(await readFile(file, 'utf8')).toBe(rotated.stdout);

  expect((await keys('revoke', rotated.stdout.split('_')[2]!)).code).toBe(0);
  await own.stop();
  await own.start();
  expect(own.output).toContain(`the administrator's key in ${file} is not valid: revoked, expired,`);
  expect(own.output).not.toContain("no administrator's key is kept here");
});

// The only key of a ledger was recorded first, and a crash before it was kept left it to nobody.
test("an administrator's key that was kept, and not recorded because the start ended, is recorded by the next one", async () => {
  await using own = await startAbide();
  const client = await own.connect();
  await client.query('delete from api_keys');
  await client.end();
  await own.stop();
  await own.start();

  const { status } = await createSend(own.url)('GET', '/v1/propagation-lag', { key: own.key });
  expect(status).toBe(200);
  expect(own.output).not.toContain('is not valid');
});

// The line to paste was printed with a key that the API refuses.
test('an ABIDE_ADMIN_KEY that was revoked is said to be, and no line is printed with it', async () => {
  const data = join(folder, 'given');
  const ABIDE_ADMIN_KEY = (await runAbide(['keys', 'token'])).stdout.trim();
  const serve = async (meanwhile: () => Promise<unknown>): Promise<string> => {
    const { child, ended, output } = spawnAbide(['serve', '--data', data], { ABIDE_ADMIN_KEY, PORT: '0' });
    await eventually(() => expect(output()).toContain('ready after'));
    await meanwhile();
    child.kill('SIGTERM');
    await ended;
    return output();
  };
  const first = await serve(() =>
    runAbide(['keys', 'revoke', ABIDE_ADMIN_KEY.split('_')[2]!, '--data', data]),
  );
  expect(first).toContain(ABIDE_ADMIN_KEY);

  const second = await serve(() => Promise.resolve());
  expect(second).toContain('ABIDE_ADMIN_KEY is revoked or expired: `abide keys token` prints a new one');
  expect(second).not.toContain(ABIDE_ADMIN_KEY);
});

// It was in the audit log alone: whoever retired a store and left it in abide.yaml found its opt-outs there again after a restart.
test('a start that puts a retired store into service again says so', async () => {
  await using own = await startAbide();
  const { code } = await runAbide(['stores', 'retire', 'crm', '--reason', 'sold'], {
    ABIDE_DATA: own.dataFolder,
  });
  expect(code).toBe(0);
  await own.stop();
  await own.start();
  expect(own.output).toMatch(/"stores":\["crm"\],"msg":"retired stores are in service again and are filled/);
  await own.stop();
  await own.start();
  expect(own.output.match(/in service again/g)).toHaveLength(1);
});

test('the storage key is rotated: what comes seals under the new one, and what was there reaches a store that comes later', async () => {
  await using own = await startAbide();
  const optOut = async (email: string): Promise<void> => {
    const body = { subject: { email } };
    const { status } = await createSend(own.url)('POST', '/v1/opt-outs', { key: own.key, body });
    expect(status).toBe(201);
  };
  await optOut('before@example.com');
  const file = join(own.dataFolder, 'keys.json');

  const given = await runAbide(['keys', 'rotate-storage'], {
    ABIDE_DATA: own.dataFolder,
    ABIDE_KEYS: await readFile(file, 'utf8'),
  });
  expect(given).toMatchObject({
    code: 0,
    output: expect.stringMatching(/make it ABIDE_KEYS\. Back up the ring/),
  });
  expect((JSON.parse(given.stdout) as { keys: object[] }).keys).toHaveLength(4);

  const rotated = await runAbide(['keys', 'rotate-storage', '--after', '0s', '--data', own.dataFolder]);
  expect(rotated).toMatchObject({ code: 0, stdout: '' });
  expect(rotated.output).toContain(
    `storage key 4 is in ${file}. Back up the ring, and restart every API process`,
  );
  expect((await stat(file)).mode & 0o777).toBe(0o600);
  expect(await readdir(own.dataFolder)).not.toContainEqual(expect.stringMatching(/^keys\.json\./));
  // A running Abide goes on with the ring that it began with.
  await optOut('meanwhile@example.com');
  await own.stop();
  const crm = own.databaseUrl('crm');
  await own.start(`stores:
  crm: { connector: postgres, url: '${crm}', scopes: [email, sms, push] }
  later: { connector: postgres, url: '${crm}', table: later, scopes: [email, sms, push] }
`);
  await optOut('after@example.com');

  const ledger = await own.connect();
  const { rows } = await ledger.query<{ key: number; people: string }>(
    'select get_byte(sealed, 4) as key, count(*) as people from subjects group by 1 order by 1',
  );
  await ledger.end();
  expect(rows).toEqual([
    { key: 2, people: '2' },
    { key: 4, people: '1' },
  ]);
  const store = await own.connect('crm');
  await eventually(async () => {
    const { rows: held } = await store.query<{ key: string }>('select key from later order by key');
    expect(held.map(({ key }) => key)).toEqual([
      'after@example.com',
      'before@example.com',
      'meanwhile@example.com',
    ]);
  });
  await store.end();
});

test('whoever reads what it prints may leave: it goes on', async () => {
  const data = join(folder, 'piped');
  const port = await freePort();
  const send = createSend(`http://127.0.0.1:${port}`);
  const child = spawn(
    process.execPath,
    ['--disable-warning=ExperimentalWarning', 'cli/abide.ts', 'serve', '--data', data],
    {
      env: { ...process.env, NODE_OPTIONS: '', ABIDE_CONFIG: '', PORT: String(port) },
      stdio: ['ignore', 'pipe', 'pipe'],
    },
  );
  const ended = new Promise((resolve) => child.once('exit', resolve));
  let printed = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (printed += text));
  await eventually(() => expect(printed).toContain('ready after'));
  const key = /abide_live_\w+/.exec(printed)![0];
  child.stdout.destroy();
  child.stderr.destroy();

  for (const email of ['one@example.com', 'two@example.com']) {
    const body = { subject: { email } };
    const { status } = await send('POST', '/v1/opt-outs', { key, body, headers: { prefer: 'wait=5' } });
    expect(status).toBe(201);
  }
  child.kill('SIGTERM');
  expect(await ended).toBe(0);
  expect(await isThere(join(data, 'postgres/postmaster.pid'))).toBe(false);
});

// A warning that the full disk did not take was thrown where it was given, and ended the API while its database was away: out of
// order, so that the database stayed behind.
test('a full disk under its log ends nothing: it goes on after its database was away, and stops in order', async () => {
  const data = join(folder, 'full');
  const port = await freePort();
  await using full = await open('/dev/full', 'w');
  const { child, ended, output } = spawnAbide(
    ['serve', '--data', data],
    { PORT: String(port) },
    { stderr: full.fd },
  );
  await eventually(() => expect(output()).toContain('ready after'));
  const key = /abide_live_\w+/.exec(output())![0];
  const server = async (): Promise<number> =>
    Number((await readFile(join(data, 'postgres/postmaster.pid'), 'utf8')).split('\n')[0]);
  const first = await server();

  process.kill(first, 'SIGKILL');

  await eventually(async () => {
    expect(child.exitCode).toBeNull();
    expect(await server()).not.toBe(first);
    const body = { subject: { email: 'ada@example.com' } };
    const { status } = await createSend(`http://127.0.0.1:${port}`)('POST', '/v1/opt-outs', { key, body });
    expect(status).toBe(201);
  });
  child.kill('SIGTERM');
  expect(await ended).toBe(0);
  expect(await isThere(join(data, 'postgres/postmaster.pid'))).toBe(false);
});

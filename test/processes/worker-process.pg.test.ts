// `abide worker` as its users run it: a process of its own that reaches the API over HTTP alone, told to stop in the middle of its
// work.
import { writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { quietLog } from '../../processes/log.ts';
import { runWorker } from '../../processes/worker.ts';
import { runAbide, spawnAbide, startAbide } from '../harness/abide.ts';
import type { AbideProcess } from '../harness/abide.ts';
import { emptyDatabase, withClient } from '../harness/database.ts';
import { eventually } from '../harness/eventually.ts';
import { freePort } from '../harness/free-port.ts';
import { createSend } from '../harness/http.ts';
import type { Send } from '../harness/http.ts';

const STOPPED_WITHIN_MS = 10_000;
const CLIENTS = 8;

const stack = new AsyncDisposableStack();
let abide: AbideProcess;
let send: Send;
let workerKey: string;
let storeUrl: string;

beforeAll(async () => {
  const store = stack.use(await emptyDatabase());
  storeUrl = store.urls.owner;
  const config = `stores:\n  crm: { connector: postgres, url: '${storeUrl}', scopes: [email, sms, push] }\n`;
  abide = stack.use(await startAbide({ config, args: ['--no-workers'] }));
  send = createSend(abide.url);
  const made = await runAbide(['keys', 'create', '--client', 'crm-worker', '--store', 'crm'], {
    ABIDE_DATA: abide.dataFolder,
    ABIDE_CONFIG: join(abide.dataFolder, 'abide.yaml'),
  });
  expect(made.code).toBe(0);
  workerKey = made.stdout.trim();
});
afterAll(() => stack.disposeAsync());

function startWorker(key = workerKey): ReturnType<typeof spawnAbide> {
  const args = ['worker', '--store', 'crm', '--config', join(abide.dataFolder, 'abide.yaml')];
  const worker = spawnAbide(args, { ABIDE_URL: abide.url, ABIDE_KEY: key });
  stack.defer(() => void worker.child.kill('SIGKILL'));
  return worker;
}

const optOut = async (email: string): Promise<string> => {
  const { status, json } = await send('POST', '/v1/opt-outs', {
    key: abide.key,
    body: { subject: { email } },
  });
  expect(status).toBe(201);
  return (json as { id: string }).id;
};

/** How many of the ids are not verified yet; each is asked for separately, as a client would. */
async function unverified(ids: readonly string[]): Promise<number> {
  const answers = await Promise.all(
    ids.map((id) => send('GET', `/v1/opt-outs/${id}/propagation`, { key: abide.key })),
  );
  return answers.filter(({ json }) => (json as { verified: number }).verified !== 1).length;
}

const held = async (): Promise<string[]> =>
  await withClient(storeUrl, async (client) =>
    (await client.query<{ key: string }>('select key from suppressions where email')).rows.map(
      ({ key }) => key,
    ),
  );

test.each(['SIGTERM', 'SIGINT'] as const)(
  'told to stop (%s) in the middle of its work, it finishes and reports what is under way, and nothing is lost',
  async (signal) => {
    const first = startWorker();
    const begun = await optOut(`first-${signal}@example.com`);
    await eventually(async () => expect(await unverified([begun])).toBe(0));

    const recorded = new Map<string, string>();
    let isOver = false;
    const clients = Array.from({ length: CLIENTS }, async (_, client) => {
      for (let n = 0; !isOver; n += 1) {
        const email = `${signal.toLowerCase()}-${client}-${n}@example.com`;
        recorded.set(await optOut(email), email);
      }
    });
    await eventually(() => expect(recorded.size).toBeGreaterThan(100));
    const told = performance.now();
    first.child.kill(signal);
    expect(await first.ended).toBe(0);
    expect(performance.now() - told).toBeLessThan(STOPPED_WITHIN_MS);
    expect(first.output()).toMatch(new RegExp(`${signal}: stopping[\\s\\S]*stopped\\n$`));
    isOver = true;
    await Promise.all(clients);

    // What it has claimed is true, whatever it was doing when it was told to stop.
    const ids = [...recorded.keys()];
    const client = await abide.connect();
    const { rows: claimed } = await client.query<{ id: string }>(
      `select d.opt_out_id as id from acknowledgements a join decisions d using (seq)
       where a.outcome = 'verified' and d.opt_out_id = any ($1)`,
      [ids],
    );
    await client.end();
    expect(claimed.length).toBeGreaterThan(0);
    const inStore = new Set(await held());
    expect(claimed.filter(({ id }) => !inStore.has(recorded.get(id)!))).toEqual([]);

    const second = startWorker();
    await eventually(async () => expect(await unverified(ids)).toBe(0));
    expect(new Set(await held())).toEqual(new Set([...inStore, ...recorded.values()]));
    const { json: lag } = await send('GET', '/v1/propagation-lag', { key: abide.key });
    expect(lag).toMatchObject({ stores: [{ outstanding: 0, quarantined: 0 }], sources: [{ redriven: 0 }] });
    second.child.kill(signal);
    expect(await second.ended).toBe(0);
  },
);

test('a worker whose key is refused ends, and says why without it', async () => {
  const worker = startWorker('abide_live_not_a_key');
  expect(await worker.ended).toBe(1);
  expect(worker.output()).toContain('The API answered 401');
  expect(worker.output()).not.toContain('abide_live_not_a_key');
});

test('a worker that comes before the API waits for it, and ends when it is told to', async () => {
  const args = ['worker', '--store', 'crm', '--config', join(abide.dataFolder, 'abide.yaml')];
  const url = `http://127.0.0.1:${await freePort()}`;
  const worker = spawnAbide(args, { ABIDE_URL: url, ABIDE_KEY: workerKey });
  stack.defer(() => void worker.child.kill('SIGKILL'));
  await eventually(() => expect(worker.output()).toContain('the API does not answer yet, will try again'));
  expect(worker.output()).toContain('ECONNREFUSED');
  expect(worker.output()).not.toContain('"stack"');
  worker.child.kill('SIGTERM');
  expect(await worker.ended).toBe(0);
});

// Found by reading: in containers every process has the number 1. Two that shared a host's name had one id, so both held the store's lease
// and both drove it.
test('two workers whose host and process number are the same have two ids', async () => {
  const ids = async (): Promise<unknown[]> => {
    const client = await abide.connect();
    const { rows } = await client.query(`select w.id from workers w where starts_with(w.id, $1)`, [
      `${hostname()}-${process.pid}`,
    ]);
    await client.end();
    return rows;
  };
  const run = () =>
    runWorker({
      store: 'crm',
      apiUrl: abide.url,
      apiKey: workerKey,
      configPath: join(abide.dataFolder, 'abide.yaml'),
      env: {},
      log: quietLog,
      onCrash: () => undefined,
    });
  const workers = [await run(), await run()];
  try {
    await eventually(async () => expect(await ids()).toHaveLength(2));
  } finally {
    for (const worker of workers) await worker.stop();
  }
});

// Seen: a worker whose file named another store carried everything there, and all of it counted as verified in ours.
test.each([
  ['another table', "{ connector: postgres, url: '%s', table: other, scopes: [email, sms, push] }"],
  [
    'another key form',
    "{ connector: postgres, url: '%s', key: { sha256: hex }, scopes: [email, sms, push] }",
  ],
  ['fewer scopes', "{ connector: postgres, url: '%s', scopes: [email] }"],
])('a worker whose configuration names %s is refused, and nothing counts as held', async (_, stanza) => {
  const id = await optOut(`refused-${Math.random()}@example.com`);
  const config = join(abide.dataFolder, 'other.yaml');
  await writeFile(config, `stores:\n  crm: ${stanza.replace('%s', storeUrl)}\n`);
  const worker = spawnAbide(['worker', '--store', 'crm', '--config', config], {
    ABIDE_URL: abide.url,
    ABIDE_KEY: workerKey,
  });
  stack.defer(() => void worker.child.kill('SIGKILL'));
  expect(await worker.ended).toBe(1);
  expect(worker.output()).toContain('The configuration says otherwise of this store');
  expect(worker.output()).toContain('Give the worker the same stanza as the API');
  expect(await unverified([id])).toBe(1);
});

test('a worker whose store was configured otherwise since ends, and leaves it to one that has the new configuration', async () => {
  const worker = startWorker();
  await eventually(() => expect(worker.output()).toContain('carrying decisions'));
  const id = await optOut('before-the-change@example.com');
  await eventually(async () => expect(await unverified([id])).toBe(0));
  await abide.stop();
  await abide.start(
    `stores:\n  crm: { connector: postgres, url: '${storeUrl}', table: moved, scopes: [email, sms, push] }\n`,
  );
  expect(await worker.ended).toBe(1);
  expect(worker.output()).toContain('The configuration says otherwise of this store');
  const after = startWorker();
  await eventually(async () => {
    const { rows } = await withClient(storeUrl, (client) =>
      client.query('select from moved where key = $1', ['before-the-change@example.com']),
    );
    expect(rows).toHaveLength(1);
  });
  after.child.kill('SIGTERM');
  expect(await after.ended).toBe(0);
});

// Seen: it went on for ever without a word, while one that was started so ended at once.
test('a worker whose store was renamed ends, and says what the API says', async () => {
  const worker = startWorker();
  await eventually(() => expect(worker.output()).toContain('carrying decisions'));
  await abide.stop();
  await abide.start(
    `stores:\n  people: { connector: postgres, url: '${storeUrl}', table: moved, scopes: [email, sms, push], formerly: crm }\n`,
  );
  expect(await worker.ended).toBe(1);
  expect(worker.output()).toContain('The key is not bound to this store.');
});

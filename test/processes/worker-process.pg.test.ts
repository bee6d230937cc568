// `abide worker` as its users run it: a process of its own that reaches the API over HTTP alone, told to stop in the middle
// of its work.
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { runAbide, spawnAbide, startAbide } from '../harness/abide.ts';
import type { AbideProcess } from '../harness/abide.ts';
import { emptyDatabase, withClient } from '../harness/database.ts';
import { eventually } from '../harness/eventually.ts';
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

/** How many of the ids are not verified yet; each is asked for by itself, as a client would. */
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

    // What it has claimed is so, whatever it was doing when it was told.
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

test('a worker whose key is refused says so and goes on trying, and ends when it is told to', async () => {
  const worker = startWorker('abide_live_not_a_key');
  await eventually(() => expect(worker.output()).toContain('the ledger gives nothing out, goes on trying'));
  expect(worker.output()).toContain('401');
  expect(worker.output()).not.toContain('abide_live_not_a_key');
  worker.child.kill('SIGTERM');
  expect(await worker.ended).toBe(0);
});

// Files of opt-outs, with Abide as it runs for its users: killed in the middle, on a disk that others read, into a real store.
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { expect, test } from '@jest/globals';
import type { Client } from 'pg';
import { request } from 'undici';
import type { ImportAnswer } from '../../api/v2/imports.ts';
import { startAbide } from '../harness/abide.ts';
import type { AbideProcess } from '../harness/abide.ts';
import { eventually } from '../harness/eventually.ts';
import { csvOf } from '../api/v2/serving-imports.ts';

async function post(
  abide: AbideProcess,
  file: string | Readable,
  query = 'scopes=email',
): Promise<ImportAnswer> {
  const { statusCode, body } = await request(`${abide.url}/v2/imports?${query}`, {
    method: 'POST',
    headers: { authorization: `Bearer ${abide.key}`, 'content-type': 'text/csv' },
    body: file,
  });
  const answer = await body.json();
  expect([statusCode, answer]).toEqual([202, expect.anything()]);
  return answer as ImportAnswer;
}

async function read(abide: AbideProcess, id: string): Promise<ImportAnswer> {
  const { body } = await request(`${abide.url}/v2/imports/${id}`, {
    headers: { authorization: `Bearer ${abide.key}` },
  });
  return (await body.json()) as ImportAnswer;
}

const untilDone = (abide: AbideProcess, id: string): Promise<ImportAnswer> =>
  eventually(async () => {
    const answer = await read(abide, id);
    if (answer.state !== 'done') throw new Error(`it is ${JSON.stringify(answer)}`);
    return answer;
  }, 100_000);

test('killed in the middle of a file and started again: every row is recorded, and counted once', async () => {
  await using abide = await startAbide({ args: ['--no-workers'] });
  const rows = 30_000;
  const { id } = await post(abide, csvOf(rows));
  for (const share of [0.1, 0.5]) {
    await eventually(async () => expect((await read(abide, id)).rows.done).toBeGreaterThan(rows * share));
    await abide.kill();
    await abide.start();
  }
  const ended = await untilDone(abide, id);

  expect(ended).toMatchObject({
    rows: { total: rows, done: rows },
    counts: { recorded: rows, already: 0, invalid: 0 },
  });
  const db = await abide.connect();
  const { rows: counted } = await db.query(
    `select (select count(*)::int from opt_outs where import_id = $1) as opt_outs,
       (select count(*)::int from decisions) as decisions, (select count(*)::int from subjects) as subjects`,
    [id],
  );
  const { rows: audited } = await db.query<{ details: { rows: [number, number]; recorded: number } }>(
    "select details from audit_log where action = 'import.recorded' order by seq",
  );
  await db.end();
  expect(counted).toEqual([{ opt_outs: rows, decisions: rows, subjects: rows }]);
  expect(audited.map(({ details }, n) => details.rows[0] - (audited[n - 1]?.details.rows[1] ?? 0))).toEqual(
    audited.map(() => 1),
  );
  expect(audited.reduce((sum, { details }) => sum + details.recorded, 0)).toBe(rows);
});

test('what a file says arrives in a real store', async () => {
  await using abide = await startAbide();
  const { id } = await post(abide, csvOf(1_000));
  await untilDone(abide, id);
  const crm = await abide.connect('crm');
  await eventually(async () => {
    const { rows } = await crm.query(
      "select count(*)::int as held from suppressions where email and kind = 'email' and key like 'p%@example.com'",
    );
    expect(rows).toEqual([{ held: 1_000 }]);
  });
  await crm.end();
});

/** Abide with a store that is late after a second, and a connection to that. */
async function startWithStore(): Promise<{ abide: AbideProcess; crm: Client }> {
  const abide = await startAbide();
  await abide.stop();
  await abide.start(
    `stores: { crm: { connector: postgres, url: '${abide.databaseUrl('crm')}', scopes: [email], late_after_seconds: 1 } }\n`,
  );
  // What it takes first makes its table.
  await post(abide, 'email\nada@example.com\n');
  const crm = await abide.connect('crm');
  await eventually(() => crm.query('select from suppressions'));
  return { abide, crm };
}

// Seen: what a file itself had decided made each store late that takes fewer than some 500 a second, and for a late store no file
// waited. From then on a live opt-out came to the store behind the whole file.
test('a file gives way to a slow store for as long as that takes what it is given, also once it is late', async () => {
  const { abide, crm } = await startWithStore();
  await using _ = abide;
  await crm.query(`
    create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(0.001); return new; end $$;
    create trigger slow before insert or update on suppressions for each row execute function slow()`);
  await crm.end();
  const began = performance.now();
  const { id } = await post(abide, csvOf(16_000));
  const db = await abide.connect();
  const beyond: number[] = [];
  await eventually(async () => {
    const { rows } = await db.query<{ lacking: number }>(
      'select (select count(*)::int from decisions) - (select count(*)::int from acknowledgements) as lacking',
    );
    // What a store may lack when a batch is let through, what the batches add that are let through by then, and what goes on
    // however slow the store is.
    const allowed = 5_000 + 3 * 2_000 + (performance.now() - began) / 5;
    beyond.push(rows[0]!.lacking - allowed);
    expect((await read(abide, id)).state).toBe('done');
  }, 100_000);
  await db.end();

  expect(Math.max(...beyond)).toBeLessThanOrEqual(0);
});

test('a file waits for no store that takes nothing', async () => {
  const { abide, crm } = await startWithStore();
  await using _ = abide;
  // As if it had been away for a while.
  const db = await abide.connect();
  await eventually(async () => {
    const { rowCount } = await db.query(
      "update acknowledgements set acknowledged_at = acknowledged_at - interval '2 minutes'",
    );
    expect(rowCount).toBe(1);
  });
  await db.end();
  await crm.query('begin; lock table suppressions');
  const { id } = await post(abide, csvOf(16_000));
  expect((await untilDone(abide, id)).counts.recorded).toBe(16_000);
  await crm.end();
});

// Seen: after default_region was set the same file was still the import before, with the same rows invalid, for ever.
test('rows that could not be read are tried when the same file comes again under a configuration that reads them, and no others', async () => {
  await using abide = await startAbide({ args: ['--no-workers'] });
  const file = 'email,phone\nada@example.com,\n,020 7183 8891\nnobody,\n';
  const first = await untilDone(abide, (await post(abide, file)).id);
  expect(first.counts).toEqual({ recorded: 1, already: 0, invalid: 2 });
  const call = async (path: string, body: object): Promise<unknown> => {
    const answer = await request(`${abide.url}${path}`, {
      method: 'POST',
      headers: { authorization: `Bearer ${abide.key}`, 'content-type': 'application/json' },
      body: JSON.stringify(body),
    });
    return await answer.body.json();
  };
  expect(
    await call('/v2/grants', {
      identifier: { email: 'ada@example.com' },
      scopes: ['email'],
      granted_at: new Date().toISOString(),
      evidence: { method: 'web_form', statement: 'Yes', source: 'the shop' },
    }),
  ).toMatchObject({ object: 'grant' });
  await abide.stop();
  await abide.start(
    "default_region: GB\nstores: { crm: { connector: redis, url: 'redis://127.0.0.1:1', scopes: [email] } }\n",
  );

  const second = await untilDone(abide, (await post(abide, file, 'scopes=email')).id);
  expect(second.counts).toEqual({ recorded: 1, already: 1, invalid: 1 });
  const db = await abide.connect();
  const { rows } = await db.query('select kind, state ? $1 as held from subjects order by kind', ['email']);
  await db.end();
  expect(rows).toEqual([
    { kind: 'email', held: false },
    { kind: 'phone', held: true },
  ]);
  await expect(post(abide, file)).rejects.toThrow('200');
});

test('while it waits no address of a file lies anywhere in the clear: in no table, no log, no file of the database', async () => {
  await using abide = await startAbide({
    args: ['--no-workers'],
    config:
      'imports: { approve_above_rows: 0 }\n' +
      "stores: { nobody: { connector: redis, url: 'redis://127.0.0.1:1', scopes: [email] } }\n",
  });
  const secret = 'whoeverreadsthis';
  const lines = Array.from({ length: 20_000 }, (_, n) => `${secret}${n}@example.com\n`);
  const { state, id } = await post(abide, `email\n${lines.join('')}`);
  expect(state).toBe('awaiting_approval');
  const db = await abide.connect();
  // A search does not read compressed text either: without the seal each piece would begin as zstd does.
  const { rows } = await db.query<{ pieces: number; readable: number }>(
    `select count(*)::int as pieces, count(*) filter (where position('\\x28b52ffd'::bytea in sealed) > 0)::int as readable
     from import_chunks where import_id = $1`,
    [id],
  );
  expect(rows[0]!.pieces).toBeGreaterThan(1);
  expect(rows[0]!.readable).toBe(0);
  await db.query('checkpoint');
  await db.end();

  const found: string[] = [];
  let looked = 0;
  const look = (folder: string): void => {
    for (const name of readdirSync(folder)) {
      const path = join(folder, name);
      const entry = statSync(path, { throwIfNoEntry: false });
      if (entry?.isDirectory() === true) look(path);
      if (entry?.isFile() !== true) continue;
      looked += 1;
      if (readFileSync(path).includes(secret)) found.push(path);
    }
  };
  look(abide.dataFolder);
  expect(looked).toBeGreaterThan(100);
  expect(found).toEqual([]);
  expect(abide.output).not.toContain(secret);
});

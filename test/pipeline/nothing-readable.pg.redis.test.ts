// No plaintext address anywhere outside of the stores: everything that a running Abide wrote is read as bytes.
import { readFile, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { spawnAbide } from '../harness/abide.ts';
import { eventually } from '../harness/eventually.ts';
import { startSystem } from './system.ts';
import type { System } from './system.ts';

let system: System;
beforeAll(async () => {
  system = await startSystem();
}, 60_000);
afterAll(async () => {
  await system[Symbol.asyncDispose]();
}, 30_000);

/** Nothing else in the world contains it. */
const MARK = 'zq7secretperson';
const ADDRESS = `${MARK}@example.com`;

/** Every table as text, sealed bytes as they are. */
async function dumpLedger(): Promise<string> {
  const db = await system.abide.connect();
  try {
    const { rows: tables } = await db.query<{ name: string }>(
      "select format('%I.%I', schemaname, tablename) as name from pg_tables where schemaname not in ('pg_catalog', 'information_schema')",
    );
    const dumps: string[] = [];
    for (const { name } of tables) {
      const { rows } = await db.query<{ all: string | null }>(
        `select string_agg(t::text || coalesce((select string_agg(encode(decode(substr(v, 3), 'hex'), 'escape'), ' ')
           from jsonb_each_text(to_jsonb(t)) as e (k, v) where v like '\\\\x%'), ''), E'\\n') as all from ${name} t`,
      );
      dumps.push(`${name}\n${rows[0]!.all ?? ''}`);
    }
    return dumps.join('\n');
  } finally {
    await db.end();
  }
}

async function filesOf(folder: string): Promise<string> {
  const names = await readdir(folder);
  const texts = names
    .filter((name) => name !== 'postgres')
    .map((name) => readFile(join(folder, name), 'latin1').catch(() => ''));
  return (await Promise.all(texts)).join('\n');
}

test('an address stands in no log, metric, error or table, wherever a client puts it', async () => {
  const answers: string[] = [];
  const post = async (path: string, body: object, headers: object = {}): Promise<number> => {
    const answer = await system.ask('POST', path, body, headers);
    if (answer.status >= 400) answers.push(answer.text);
    return answer.status;
  };
  const optOut = (body: object, headers?: object): Promise<number> => post('/v1/opt-outs', body, headers);

  // In its place, and in every other place where somebody might put it.
  expect(
    await optOut(
      { subject: { email: ADDRESS }, note: `asked by ${ADDRESS}` },
      { 'idempotency-key': ADDRESS },
    ),
  ).toBe(201);
  expect(await optOut({ subject: { person_id: ADDRESS } })).toBe(201);
  expect(await optOut({ subject: { push_token: ADDRESS } })).toBe(201);
  expect(await optOut({ subject: { email: `${MARK}@@` } })).toBe(422);
  expect(await optOut({ subject: { phone: ADDRESS } })).toBe(422);
  expect(await optOut({ subject: { email: ADDRESS }, [ADDRESS]: 1, reason: ADDRESS })).toBe(422);
  expect(await optOut({ subject: { email: ADDRESS } }, { authorization: `Bearer ${ADDRESS}` })).toBe(401);
  expect(
    await optOut({ subject: { email: ADDRESS }, scope: { sms: true } }, { 'idempotency-key': ADDRESS }),
  ).toBe(422);
  await post('/v1/checks', {
    items: [{ subject: { email: ADDRESS }, channel: 'email', ref: ADDRESS }, ADDRESS],
  });
  await post('/v1/subjects/lookup', { subject: { email: ADDRESS } });
  const evidence = { method: 'email', statement: `${ADDRESS} wrote`, source: ADDRESS };
  const asked = { identifiers: [{ email: `3${ADDRESS}` }, { person_id: `3${ADDRESS}` }], scopes: ['email'] };
  const granted = { identifier: { email: `3${ADDRESS}` }, scopes: ['email'], evidence };
  const named = { 'idempotency-key': `3${ADDRESS}` };
  expect(await post('/v2/opt-outs', { ...asked, evidence, note: ADDRESS }, named)).toBe(201);
  expect(await post('/v2/opt-outs', { ...asked, scopes: [ADDRESS], regimes: [ADDRESS] })).toBe(422);
  const yesterday = new Date(Date.now() - 86_400_000).toISOString();
  expect(await post('/v2/grants', { ...granted, granted_at: yesterday })).toBe(409);
  const granted_at = new Date().toISOString();
  expect(await post('/v2/grants', { ...granted, granted_at }, { 'idempotency-key': `4${ADDRESS}` })).toBe(
    201,
  );
  await post('/v2/checks', { items: [{ identifiers: [{ email: ADDRESS }], scope: ADDRESS, ref: ADDRESS }] });
  answers.push((await system.ask('GET', `/v2/grants/${ADDRESS}`)).text);
  answers.push((await system.ask('GET', `/v1/opt-outs/${ADDRESS}`)).text);
  answers.push((await system.ask('GET', `/v1/opt-outs?cursor=${ADDRESS}&${ADDRESS}=1`)).text);
  answers.push((await system.ask('GET', `/${ADDRESS}`)).text);

  // A store whose errors carry the row: PostgreSQL names the key that violates a constraint, in `detail`.
  const { held } = system.stores.crm;
  await eventually(async () => expect(await held(ADDRESS)).toHaveLength(3));
  system.stores.sessions.setFault('lose_answer');
  system.stores.mail.setFault('cut_request');
  expect(await optOut({ subject: { email: `2${ADDRESS}` } })).toBe(201);
  await eventually(async () => {
    for (const name of ['sessions', 'mail'] as const)
      expect((await system.lagOf(name)).last_error).not.toBeNull();
  });
  for (const name of ['sessions', 'mail'] as const) system.stores[name].setFault('none');
  await eventually(async () => expect((await system.lag()).status).toBe('ok'), 30_000);

  const audit = spawnAbide(['audit', '--limit', '1000', '--json'], {
    ABIDE_DATA: system.abide.dataFolder,
    ABIDE_CONFIG: `${system.abide.dataFolder}/abide.yaml`,
  });
  expect(await audit.ended).toBe(0);
  const written = {
    answers: answers.join('\n'),
    output: system.abide.output,
    metrics: (await system.ask('GET', '/metrics')).text,
    lag: (await system.ask('GET', '/v1/propagation-lag')).text,
    list: (await system.ask('GET', '/v1/opt-outs')).text.replaceAll(
      /"idempotency_key":"3?zq7secretperson@example\.com"/g,
      'what the client itself named its request by',
    ),
    audit: audit.output(),
    files: await filesOf(system.abide.dataFolder),
    ledger: await dumpLedger(),
  };
  // What is looked through is what was meant.
  expect(written.output).toMatch(/z••@e••\.com recorded, crm verified/);
  expect(written.files).toMatch(/starting PostgreSQL|listening on/);
  expect(written.ledger).toMatch(/decisions\n\(/);
  expect(written.audit).toMatch(/opt_out\.recorded/);
  for (const [where, text] of Object.entries(written)) {
    expect([where, text.toLowerCase().includes(MARK)]).toEqual([where, false]);
  }
}, 60_000);

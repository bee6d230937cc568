// No plaintext address and no secret anywhere except in the stores and the files made for them: everything that a running Abide
// wrote is read as bytes.
import { readFile, readdir, stat, writeFile } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { makeToken } from '../../ledger/api-keys.ts';
import { runAbide, spawnAbide, startAbide } from '../harness/abide.ts';
import type { AbideProcess } from '../harness/abide.ts';
import { emptyDatabase } from '../harness/database.ts';
import { eventually } from '../harness/eventually.ts';
import { freePort } from '../harness/free-port.ts';
import { createSend } from '../harness/http.ts';
import { startIssuer } from '../harness/issuer.ts';
import { startSystem } from './system.ts';
import type { System } from './system.ts';

let system: System;
beforeAll(async () => {
  system = await startSystem();
});
afterAll(async () => {
  await system[Symbol.asyncDispose]();
});

/** Nothing else in the world contains it. */
const MARK = 'zq7secretperson';
const ADDRESS = `${MARK}@example.com`;

/** Every table as text, sealed bytes as they are. */
async function dumpLedger({ connect }: AbideProcess): Promise<string> {
  const db = await connect();
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

/** The data folder file by file, byte for byte, including the cluster's own files as they are on disk, and its log of writes. */
async function filesOf(folder: string): Promise<Map<string, string>> {
  const all = await readdir(folder, { recursive: true, withFileTypes: true });
  const files = new Map<string, string>();
  for (const file of all.filter((one) => one.isFile())) {
    const path = join(file.parentPath, file.name);
    files.set(relative(folder, path), await readFile(path, 'latin1').catch(() => ''));
  }
  return files;
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
  await eventually(async () => expect((await system.lag()).status).toBe('ok'));

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
    files: [...(await filesOf(system.abide.dataFolder)).values()].join('\n'),
    ledger: await dumpLedger(system.abide),
  };
  // Make sure that what is searched is what was meant.
  expect(written.output).toMatch(/z••@e••\.com recorded, crm verified/);
  expect(written.files).toMatch(/starting PostgreSQL|listening on/);
  expect(written.ledger).toMatch(/decisions\n\(/);
  expect(written.audit).toMatch(/opt_out\.recorded/);
  for (const [where, text] of Object.entries(written)) {
    expect([where, text.toLowerCase().includes(MARK)]).toEqual([where, false]);
  }
});

/** What it looks like wherever it might be written: as it is, as bytes, and in the encodings. */
const spellings = (secret: string | Buffer): string[] =>
  typeof secret === 'string'
    ? [
        ...new Set([
          secret,
          encodeURIComponent(secret),
          Buffer.from(secret).toString('base64').replace(/=+$/, ''),
        ]),
      ]
    : [
        secret.toString('latin1'),
        secret.toString('hex'),
        secret.toString('base64').replace(/=+$/, ''),
        secret.toString('base64url'),
      ];

test('a secret stands in no log, metric, error, table or file but the one that is for it, whatever fails with it', async () => {
  await using issuer = await startIssuer();
  await using somewhere = await emptyDatabase();
  const passwords = {
    CRM: 'pw1-of-the-crm',
    OTHER: 'pw2-of-the-other',
    SESSIONS: 'pw3-of-the-sessions',
    BACK: 'pw4-of-the-back-office',
    MAIL: `whsec_${Buffer.from('pw5-of-the-mail').toString('base64')}`,
    HASH: 'pw6-of-the-form-of-keys',
  };
  const closed = await freePort();
  const { port } = new URL(somewhere.urls.owner);
  const env = {
    // One that lets in only with another password, and one where nobody listens.
    CRM_URL: `postgres://abide:${passwords.CRM}@127.0.0.1:${port}/postgres`,
    OTHER_URL: `postgres://abide:${passwords.OTHER}@127.0.0.1:${closed}/crm?application_name=x`,
    SESSIONS_URL: `redis://abide:${passwords.SESSIONS}@127.0.0.1:6379`,
    BACK_URL: `mysql://abide:${passwords.BACK}@127.0.0.1:${closed}/crm`,
    MAIL_SECRET: passwords.MAIL,
    HASH_SECRET: passwords.HASH,
  };
  const config = `
oauth: { login: { issuer: '${issuer.url}', audience: 'https://abide.test', jwks: '${issuer.url}/jwks' } }
stores:
  crm: { connector: postgres, url: '\${CRM_URL}', scopes: [email] }
  other: { connector: postgres, url: '\${OTHER_URL}', scopes: [email], required: false }
  sessions: { connector: redis, url: '\${SESSIONS_URL}', scopes: [email], required: false }
  back: { connector: mysql, url: '\${BACK_URL}', scopes: [email], required: false, key: { hmac: '\${HASH_SECRET}' } }
  mail: { connector: http, url: 'http://127.0.0.1:${closed}/x', secret: '\${MAIL_SECRET}', allow_private: true, scopes: [email], required: false }
`;
  await using abide = await startAbide({ config, env: { ...env, ABIDE_LOG: 'debug' } });
  const inFolder = {
    ...env,
    ABIDE_DATA: abide.dataFolder,
    ABIDE_CONFIG: join(abide.dataFolder, 'abide.yaml'),
  };
  const run = (...args: string[]) =>
    runAbide(args, { ...inFolder, ABIDE_URL: abide.url, ABIDE_KEY: abide.key });
  const send = createSend(abide.url);
  const written = new Map<string, string>();
  const answers: string[] = [];
  const ask = async (path: string, key: string, body?: object): Promise<number> => {
    const answer = await send(body === undefined ? 'GET' : 'POST', path, { key, body });
    answers.push(JSON.stringify(answer.headers), answer.text);
    return answer.status;
  };

  const made = async (...args: string[]) => {
    const { stdout } = await run('keys', 'create', ...args, '--json');
    return JSON.parse(stdout) as { id: string; token: string };
  };
  const client = await made('--client', 'shop', '--scope', 'opt_outs:write', 'opt_outs:read', 'checks:read');
  const worker = await made('--client', 'crm-worker', '--store', 'crm');
  const rotated = JSON.parse((await run('keys', 'rotate', client.id, '--json')).stdout) as { token: string };
  const revoked = await made('--client', 'gone', '--scope', 'checks:read');
  await run('keys', 'revoke', revoked.id);
  const tokens = [
    await issuer.tokenFor('opt_outs:write opt_outs:read'),
    await issuer.tokenFor('checks:read', 'https://elsewhere.test'),
    await issuer.forge({}, { client_id: 7 }).sign(issuer.key.privateKey),
    await issuer.forge({ kid: 'none-of-its' }).sign(issuer.key.privateKey),
  ];
  const unknown = makeToken();

  const optOut = (n: number) => ({ subject: { email: `p${n}@secrets.example` } });
  expect(await ask('/v1/opt-outs', client.token, { ...optOut(1), idempotency_key: 'once' })).toBe(201);
  expect(await ask('/v1/opt-outs', rotated.token, optOut(2))).toBe(201);
  expect(await ask('/v1/opt-outs', tokens[0]!, optOut(3))).toBe(201);
  // Its issuer was asked for keys a moment ago, and may have the last one's by now: 503.
  for (const key of [unknown, revoked.token, ...tokens.slice(1), worker.token])
    expect([401, 403, 503]).toContain(await ask('/v1/opt-outs', key, optOut(4)));
  issuer.goAway();
  await ask('/v1/opt-outs', tokens[3]!, optOut(5));
  // A key where it does not belong.
  for (const key of [client.token, unknown]) {
    await ask(`/v1/opt-outs/${key}`, abide.key);
    await ask(`/v1/opt-outs?cursor=${key}&key=${key}`, abide.key);
    await ask('/v1/opt-outs', abide.key, { ...optOut(6), [key]: key, reason: key });
    await ask(`/v1/stores/${key}/outstanding`, worker.token);
  }
  const db = await abide.connect();
  const { rows } = await db.query<{ id: number }>('select id from transport_keys order by 1');
  await db.end();
  const transport = await send('GET', `/v1/transport-keys/${rows[0]!.id}`, { key: worker.token });
  expect(transport.status).toBe(200);

  for (const name of ['crm', 'other', 'sessions', 'back', 'mail'])
    await eventually(async () => {
      const { json } = await send('GET', '/v1/propagation-lag', { key: abide.key });
      const store = json.stores.find((one: { store: string }) => one.store === name);
      expect([name, store.last_error]).not.toEqual([name, null]);
    });

  const broken = join(abide.dataFolder, 'broken.yaml');
  await writeFile(broken, config.replace('${CRM_URL}', '${BROKEN_URL}'));
  const ring = await readFile(join(abide.dataFolder, 'keys.json'), 'utf8');
  for (const [name, ran] of [
    ['doctor', run('doctor')],
    ['config check', run('config', 'check')],
    [
      'config check of a broken URL',
      runAbide(['config', 'check'], {
        ...inFolder,
        ABIDE_CONFIG: broken,
        BROKEN_URL: `postgres://abide:${passwords.CRM}@[`,
      }),
    ],
    ['config check of a secret left out', runAbide(['config', 'check'], { ...inFolder, MAIL_SECRET: '' })],
    [
      'a ring cut short',
      runAbide(['disputes', 'export', client.id], { ...inFolder, ABIDE_KEYS: ring.slice(0, -20) }),
    ],
    ['a database elsewhere', runAbide(['keys', 'list'], { ...inFolder, DATABASE_URL: env.OTHER_URL })],
    [
      'an administrator’s key with an error',
      runAbide(['lag'], { ...inFolder, ABIDE_URL: abide.url, ABIDE_KEY: unknown }),
    ],
    ['keys', run('keys', 'list', '--json')],
    ['audit', run('audit', '--limit', '1000', '--json')],
    ['stores', run('stores', 'list')],
    ['read', run('stores', 'read', 'crm', '--email', 'p1@secrets.example')],
  ] as const)
    written.set(name, (await ran).output);

  written.set('answers', answers.join('\n'));
  written.set('metrics', (await send('GET', '/metrics')).text);
  written.set('lag', (await send('GET', '/v1/propagation-lag', { key: abide.key })).text);
  written.set('ledger', await dumpLedger(abide));
  written.set('output', abide.output);
  for (const [name, text] of await filesOf(abide.dataFolder)) written.set(name, text);

  const keys = JSON.parse(ring) as { keys: { purpose: string; secret: string }[] };
  const postgres = JSON.parse(written.get('postgres.json')!) as { passwords: Record<string, string> };
  const secretOf = (token: string): string => token.split('_').at(-1)!;
  const secrets: [name: string, secret: string | Buffer, mayStandIn: readonly string[]][] = [
    // It is shown to the person who starts Abide for the first time.
    ['administrator', secretOf(abide.key), ['output', 'admin.key']],
    ...[client, worker, rotated, revoked].map(
      ({ token }, n) => [`key ${n}`, secretOf(token), []] as [string, string, string[]],
    ),
    ['unknown key', secretOf(unknown), []],
    ...tokens.map((token, n) => [`token ${n}`, token.split('.')[2]!, []] as [string, string, string[]]),
    ...Object.entries(passwords).map(([name, one]) => [name, one, []] as [string, string, string[]]),
    ...keys.keys.map(
      ({ purpose, secret }) =>
        [purpose, Buffer.from(secret, 'base64'), ['keys.json']] as [string, Buffer, string[]],
    ),
    ['transport key', Buffer.from(transport.json.key as string, 'base64url'), []],
    ...Object.entries(postgres.passwords).map(
      ([role, one]) => [`password of ${role}`, one, ['postgres.json']] as [string, string, string[]],
    ),
  ];
  // Make sure that what is searched is what was meant, and that what is searched for is found where it belongs.
  expect(written.get('doctor')).toMatch(/crm/);
  expect(written.get('postgres.log')).toMatch(/starting PostgreSQL|listening on/);
  expect([...written.keys()].some((name) => name.startsWith('postgres/pg_wal/'))).toBe(true);
  expect(written.get('ledger')).toMatch(/api_keys\n\(/);
  const found = secrets.map(([name, secret]) => [
    name,
    [...written].flatMap(([where, text]) =>
      spellings(secret).some((one) => text.includes(one)) ? [where] : [],
    ),
  ]);
  expect(found).toEqual(secrets.map(([name, , mayStandIn]) => [name, mayStandIn]));
  for (const name of ['admin.key', 'keys.json', 'postgres.json'])
    expect([name, (await stat(join(abide.dataFolder, name))).mode & 0o777]).toEqual([name, 0o600]);
}, 300_000);

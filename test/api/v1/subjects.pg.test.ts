// Looking a subject up, and checking before sending, over the real ledger: the two must agree.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { grant, intent, render, subject } from '../../harness/ledger.ts';
import { serveToClients } from '../serving.ts';
import type { ServedToClients } from '../serving.ts';

let api: ServedToClients;
beforeAll(async () => {
  api = await serveToClients({ declared: { topics: { email: ['news', 'offers'] }, purposes: [] } });
  await api.t.register({ name: 'crm' });
});
afterAll(async () => {
  await api[Symbol.asyncDispose]();
});

const DAY = '2026-03-01T09:00:00.000Z';
const post = (body: object, key = api.key) => api.send('POST', '/v1/opt-outs', { key, body });
const lookup = async (who: object) =>
  (await api.send('POST', '/v1/subjects/lookup', { key: api.key, body: { subject: who } })).json;
const check = async (...items: object[]) =>
  (await api.send('POST', '/v1/checks', { key: api.key, body: { items } })).json.items;
const answer = (
  canSend: boolean,
  reason: string | null,
  optOutId: string | null,
  effectiveAt: string | null,
) => ({
  can_send: canSend,
  reason,
  opt_out_id: optOutId,
  effective_at: effectiveAt,
});
const SENDABLE = answer(true, null, null, null);

describe('looking up', () => {
  test('somebody unknown is 200: all false, nothing, null', async () => {
    expect(await lookup({ email: 'unknown@example.com' })).toEqual({
      object: 'subject',
      subject: { kind: 'email', masked: 'u••@e••.com' },
      scope: { email: false, sms: false, push: false },
      effective: { email: null, sms: null, push: null },
      opt_outs: [],
      propagation: null,
    });
  });

  test('shows the state of now and every opt-out as GET shows it, newest first, whoever made it', async () => {
    const who = { email: 'several@example.com' };
    const { token: app } = await api.makeKey({ client: 'app' });
    const first = await post({ subject: who, scope: { email: true }, effective_at: DAY });
    const second = await post({ subject: who, scope: { sms: true }, effective_at: DAY }, app);
    const found = await lookup({ email: 'SEVERAL@example.com ' });
    expect(found.scope).toEqual({ email: true, sms: true, push: false });
    expect(found.effective).toEqual({ email: DAY, sms: DAY, push: null });
    expect(found.opt_outs.map(({ id }: { id: string }) => id)).toEqual([second.json.id, first.json.id]);
    const { json: one } = await api.send('GET', `/v1/opt-outs/${first.json.id}`, { key: api.key });
    expect(found.opt_outs[1]).toEqual(one);
    // As recorded, not as it is now.
    expect(one.scope).toEqual({ email: true, sms: false, push: false });
    expect(found.propagation).toEqual(found.opt_outs[0].propagation);
  });

  test('after a grant shows what still holds, and which opt-outs are no longer in force', async () => {
    const who = { email: 'granted@example.com' };
    const { json } = await post({ subject: who, scope: { email: true, sms: true }, effective_at: DAY });
    await grant(api.t, await subjectIdOf(json.id), ['email']);
    const found = await lookup(who);
    expect(found.scope).toEqual({ email: false, sms: true, push: false });
    expect(found.opt_outs.map(({ in_force }: { in_force: boolean }) => in_force)).toEqual([false]);
    expect(await check({ subject: who, channel: 'email' }, { subject: who, channel: 'sms' })).toEqual([
      SENDABLE,
      answer(false, 'opted_out', json.id, DAY),
    ]);
  });

  test('shows at most a hundred', async () => {
    const who = 'often@example.com';
    const ids: string[] = [];
    for (let n = 0; n < 101; n += 1) {
      const scopes = [`email/topic-${n}`] as never;
      ids.push((await api.t.ledger.record(intent(who, { scopes }), render)).optOutId);
    }
    const found = await lookup({ email: who });
    expect(found.opt_outs.map(({ id }: { id: string }) => id)).toEqual(ids.slice(1).reverse());
  });

  test('the same text as another kind of identifier is somebody else', async () => {
    await post({ subject: { person_id: '+442071838750' } });
    expect((await lookup({ phone: '+442071838750' })).opt_outs).toEqual([]);
    expect((await lookup({ person_id: '+442071838750' })).opt_outs).toHaveLength(1);
  });
});

const subjectIdOf = async (optOutId: string): Promise<string> =>
  (
    await api.t.pool.query<{ subject_id: string }>(
      'select subject_id from opt_out_subjects where opt_out_id = $1',
      [optOutId],
    )
  ).rows[0]!.subject_id;

describe('checking', () => {
  test('somebody unknown may be sent to, somebody opted out may not, a channel at a time', async () => {
    const who = { email: 'checked@example.com' };
    const { json } = await post({ subject: who, scope: { email: true }, effective_at: DAY });
    expect(
      await check(
        { ref: '1', subject: who, channel: 'email' },
        { ref: '2', subject: who, channel: 'sms' },
        { ref: '3', subject: { email: 'stranger@example.com' }, channel: 'email' },
        { ref: '4', subject: { email: ' Checked@EXAMPLE.com' }, channel: 'email', topic: 'news' },
      ),
    ).toEqual([
      { ref: '1', ...answer(false, 'opted_out', json.id, DAY) },
      { ref: '2', ...SENDABLE },
      { ref: '3', ...SENDABLE },
      { ref: '4', ...answer(false, 'opted_out', json.id, DAY) },
    ]);
  });

  test('one suppressed identifier suppresses the item', async () => {
    const { json } = await post({ subject: { person_id: 'p-7' }, effective_at: DAY });
    const subjects = [{ email: 'p7@example.com' }, { phone: '+442071838751' }, { person_id: 'p-7' }];
    expect(
      await check({ subjects, channel: 'push' }, { subjects: subjects.slice(0, 2), channel: 'push' }),
    ).toEqual([answer(false, 'opted_out', json.id, DAY), SENDABLE]);
  });

  test('where a topic is suppressed, an item of its channel must name one that is declared', async () => {
    const who = 'topics@example.com';
    const { optOutId } = await api.t.ledger.record(
      intent(who, { scopes: ['email/news'] as never, effectiveAt: DAY }),
      render,
    );
    const item = { subject: { email: who }, channel: 'email' };
    expect(
      await check(
        item,
        { ...item, topic: 'news' },
        { ...item, topic: 'offers' },
        { ...item, topic: 'new' },
        { ...item, topic: 'new', subject: { email: 'topicless@example.com' } },
        { ...item, channel: 'sms' },
      ),
    ).toEqual([
      answer(false, 'topic_required', optOutId, DAY),
      answer(false, 'opted_out', optOutId, DAY),
      SENDABLE,
      answer(false, 'topic_required', optOutId, DAY),
      SENDABLE,
      SENDABLE,
    ]);
  });

  test('an identifier that is opted out speaks louder than one whose topic is missing', async () => {
    await api.t.ledger.record(intent('louder@example.com', { scopes: ['email/news'] as never }), render);
    const { json } = await post({ subject: { person_id: 'louder' }, effective_at: DAY });
    const subjects = [{ email: 'louder@example.com' }, { person_id: 'louder' }];
    expect(await check({ subjects, channel: 'email' })).toEqual([answer(false, 'opted_out', json.id, DAY)]);
  });

  test('counts an opt-out as soon as it is answered, at any process', async () => {
    const elsewhere = await api.serve(await api.t.another());
    for (let n = 0; n < 5; n += 1) {
      const who = { email: `soon${n}@example.com` };
      const { json } = await post({ subject: who });
      const { json: checked } = await elsewhere('POST', '/v1/checks', {
        key: api.key,
        body: { items: [{ subject: who, channel: 'push' }] },
      });
      expect(checked.items[0]).toMatchObject({ can_send: false, opt_out_id: json.id });
      expect(checked.as_of >= json.recorded_at).toBe(true);
    }
  });

  test('answers a thousand in order', async () => {
    const items = Array.from({ length: 1_000 }, (_, n) => ({
      ref: String(n),
      subject: { email: n % 100 === 0 ? 'checked@example.com' : `unknown${n}@example.com` },
      channel: 'email',
    }));
    const answers = await check(...items);
    expect(answers.map(({ ref }: { ref: string }) => ref)).toEqual(items.map(({ ref }) => ref));
    expect(
      answers.filter((one: { can_send: boolean }) => !one.can_send).map(({ ref }: { ref: string }) => ref),
    ).toEqual(Array.from({ length: 10 }, (_, n) => String(n * 100)));
  });
});

test('an erased subject stays suppressed, and nobody is shown', async () => {
  const who = { email: 'erased@example.com' };
  const { json } = await post({ subject: who, effective_at: DAY });
  await api.t.pool.query('update subjects set sealed = null where match_key = $1', [
    await matchKeyOf(json.id),
  ]);
  const { json: found } = await api.send('GET', `/v1/opt-outs/${json.id}`, { key: api.key });
  expect([found.subject, found.in_force]).toEqual([{ kind: 'email', masked: null }, true]);
  expect(await check({ subject: who, channel: 'email' })).toEqual([answer(false, 'opted_out', json.id, DAY)]);
  expect((await lookup(who)).scope.email).toBe(true);
});

const matchKeyOf = async (optOutId: string): Promise<Buffer> =>
  (
    await api.t.pool.query<{ match_key: Buffer }>('select match_key from subjects where id = $1', [
      await subjectIdOf(optOutId),
    ])
  ).rows[0]!.match_key;

test('no address stands anywhere in the database, whatever was asked', async () => {
  const address = subject('nowhere.to.be.seen@example.com').value.reveal();
  await post({ subject: { email: address }, note: `mail ${address}`, idempotency_key: `k-${address}` });
  await lookup({ email: address });
  const { rows: tables } = await api.t.pool.query<{ name: string }>(
    "select tablename as name from pg_tables where schemaname = 'public'",
  );
  for (const { name } of tables) {
    const { rows } = await api.t.pool
      .query<{ row: string }>(`select t::text as row from ${name} t`)
      .catch((error: unknown) => {
        // Tables that the API's role may not even read.
        if ((error as { code?: string }).code === '42501') return { rows: [] };
        throw error;
      });
    for (const { row } of rows) {
      expect(row).not.toContain('nowhere.to.be.seen');
      expect(row).not.toContain(Buffer.from('nowhere.to.be.seen').toString('hex'));
    }
  }
});

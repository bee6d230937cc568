import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { withClient } from '../../harness/database.ts';
import { outstandingOf, report, verified } from '../../harness/ledger.ts';
import { problemOf } from '../../harness/http.ts';
import { serveToClients } from '../serving.ts';
import type { ServedToClients } from '../serving.ts';

let api: ServedToClients;
/** The shop's opt-outs, oldest first. */
const ids: string[] = [];
let ofApp = '';
let appKey = '';

beforeAll(async () => {
  api = await serveToClients();
  await api.t.register({ name: 'crm', scopes: ['email'] }, { name: 'sms', scopes: ['sms'], required: false });
  appKey = (await api.makeKey({ client: 'app' })).token;
  for (let n = 0; n < 25; n += 1) {
    const { json } = await post(api.key, {
      subject: { email: `person${n}@example.com` },
      scope: n % 2 === 0 ? { email: true } : { sms: true },
      ...(n % 5 === 0 ? { reason: 'legal' } : {}),
    });
    ids.push(json.id);
  }
  ofApp = (await post(appKey, { subject: { email: 'app@example.com' } })).json.id;
  // The store has confirmed the first five that it must hold: of persons 0, 2, 4, 6 and 8.
  const due = (await outstandingOf(api.t.ledger, 'crm')).slice(0, 5);
  await api.t.ledger.acknowledge('crm', report(due.map((decision) => verified(decision))));
});
afterAll(async () => {
  await api[Symbol.asyncDispose]();
});

const post = (key: string, body: object) => api.send('POST', '/v1/opt-outs', { key, body });
const list = (query: string, key = api.key) => api.send('GET', `/v1/opt-outs${query}`, { key });
const idsOf = ({ json }: { json: { opt_outs: { id: string }[] } }) => json.opt_outs.map(({ id }) => id);
const newestFirst = (...indexes: number[]) => indexes.sort((a, b) => b - a).map((n) => ids[n]);

/** Follows `Link` from a first page to the end. */
async function allPages(query: string, key = api.key): Promise<string[][]> {
  const pages: string[][] = [];
  for (let path: string | undefined = `/v1/opt-outs${query}`; path !== undefined;) {
    const page = await api.send('GET', path, { key });
    expect(page.status).toBe(200);
    pages.push(idsOf(page));
    const link = /^<([^>]+)>; rel="next"$/.exec(page.headers.link ?? '')?.[1];
    expect(link === undefined).toBe(page.json.next_cursor === null);
    if (link !== undefined)
      expect(new URL(link, 'http://x').searchParams.get('cursor')).toBe(page.json.next_cursor);
    path = link;
  }
  return pages;
}

const everyIndex = Array.from({ length: 25 }, (_, n) => n);

test('a list is newest first, of its own client alone, each as GET answers it', async () => {
  const page = await list('?limit=100');
  expect(idsOf(page)).toEqual(newestFirst(...everyIndex));
  expect(page.json.object).toBe('list');
  const { json: one } = await api.send('GET', `/v1/opt-outs/${ids[24]!}`, { key: api.key });
  expect(page.json.opt_outs[0]).toEqual(one);
  expect(idsOf(await list('', appKey))).toEqual([ofApp]);
});

test('opt_outs:read_all lists every client’s', async () => {
  const { token } = await api.makeKey({ client: 'auditor', scopes: ['opt_outs:read_all'] });
  expect(idsOf(await list('?limit=100', token))).toEqual([ofApp, ...newestFirst(...everyIndex)]);
});

test('pages follow each other without a gap or a repeat, however many there are to a page', async () => {
  expect((await allPages('')).map(({ length }) => length)).toEqual([20, 5]);
  for (const limit of [1, 7, 24, 25]) {
    const pages = await allPages(`?limit=${limit}`);
    expect(pages.flat()).toEqual(newestFirst(...everyIndex));
    expect(pages.slice(0, -1).every(({ length }) => length === limit)).toBe(true);
    expect(pages).toHaveLength(Math.ceil(25 / limit));
  }
});

test('what is recorded between two pages moves no page', async () => {
  const first = await list('?limit=10', appKey);
  expect(idsOf(first)).toEqual([ofApp]);
  const started = await list('?limit=10');
  const added = await post(appKey, { subject: { email: 'between@example.com' } });
  const { token } = await api.makeKey({ client: 'auditor', scopes: ['opt_outs:read_all'] });
  const second = await list(`?limit=10&cursor=${started.json.next_cursor}`, token);
  expect(idsOf(second)).toEqual(newestFirst(...everyIndex.slice(5, 15)));
  expect(idsOf(second)).not.toContain(added.json.id);
});

describe('a filter', () => {
  test('by reason', async () => {
    expect((await allPages('?reason=legal&limit=2')).flat()).toEqual(newestFirst(0, 5, 10, 15, 20));
    expect(idsOf(await list('?reason=complaint'))).toEqual([]);
  });

  test('by when it was recorded: since is included, until is not', async () => {
    const at = async (n: number) =>
      (await api.send('GET', `/v1/opt-outs/${ids[n]!}`, { key: api.key })).json.recorded_at as string;
    const [since, until] = [await at(5), await at(10)];
    const listed = idsOf(await list(`?since=${since}&until=${until}&limit=100`));
    const recorded = await Promise.all(everyIndex.map(async (n) => [n, await at(n)] as const));
    // The ledger keeps microseconds: what was recorded within the first millisecond may lie on either side of it.
    const inside = recorded.filter(([, when]) => when > since && when < until).map(([n]) => n);
    expect(listed).toEqual(expect.arrayContaining(newestFirst(...inside, 5)));
    expect(listed).not.toContain(ids[10]);
    expect(listed.every((id) => ids.indexOf(id) >= 4 && ids.indexOf(id) <= 10)).toBe(true);
    expect(idsOf(await list(`?since=2999-01-01T00:00:00Z`))).toEqual([]);
    expect(idsOf(await list(`?until=1999-01-01T00:00:00Z`))).toEqual([]);
    expect(idsOf(await list(`?since=9999-12-31T23:59:59Z`))).toEqual([]);
    expect(idsOf(await list(`?until=9999-12-31T23:59:59.999Z&limit=1`))).toEqual([ids[24]]);
  });

  test('by the state of its propagation', async () => {
    const [even, odd] = [everyIndex.filter((n) => n % 2 === 0), everyIndex.filter((n) => n % 2 === 1)];
    expect((await allPages('?state=complete&limit=2')).flat()).toEqual(newestFirst(0, 2, 4, 6, 8));
    expect((await allPages('?state=pending&limit=3')).flat()).toEqual(newestFirst(...even.slice(5)));
    expect((await allPages('?state=uncovered&limit=100')).flat()).toEqual(newestFirst(...odd));
  });

  test('by store, and by its state there', async () => {
    const [even, odd] = [everyIndex.filter((n) => n % 2 === 0), everyIndex.filter((n) => n % 2 === 1)];
    expect((await allPages('?store=crm&limit=4')).flat()).toEqual(newestFirst(...even));
    expect((await allPages('?store=crm&state=complete')).flat()).toEqual(newestFirst(0, 2, 4, 6, 8));
    expect((await allPages('?store=crm&state=pending&reason=legal')).flat()).toEqual(newestFirst(10, 20));
    expect((await allPages('?store=sms&state=pending&limit=100')).flat()).toEqual(newestFirst(...odd));
    expect((await allPages('?store=nowhere')).flat()).toEqual([]);
  });
});

test.each(['x', 'bm90IGEgdXVpZA', '%00', Buffer.from('0199aaaa').toString('base64url')])(
  'a cursor that no list answered is refused: %s',
  async (cursor) => {
    expect(problemOf(await list(`?cursor=${cursor}`))).toEqual([422, 'invalid-value', ['/cursor']]);
  },
);

test('a cursor of another client’s list shows nothing of it', async () => {
  const { json } = await list('?limit=1');
  expect(idsOf(await list(`?cursor=${json.next_cursor}`, appKey)).every((id) => !ids.includes(id))).toBe(
    true,
  );
});

// Found by reading: the page that has it failed, and no cursor led past it.
test('somebody whose address was damaged is listed without it, among the others', async () => {
  await withClient(api.t.db.superuserUrl, (client) =>
    client.query(
      `update subjects set sealed = set_byte(sealed, 40, get_byte(sealed, 40) # 1)
       where id = (select subject_id from opt_out_subjects where opt_out_id = $1)`,
      [ids[23]],
    ),
  );
  const page = await list('?limit=3');
  expect(idsOf(page)).toEqual(newestFirst(24, 23, 22));
  expect(
    page.json.opt_outs.map(({ subject }: { subject: { masked: string | null } }) => subject.masked),
  ).toEqual([expect.any(String), null, expect.any(String)]);
});

// Found by reading: it waited while it held others, and a deadlock with an erasure was answered with 500.
test('a list that sees the first completion of somebody who is being erased does not wait for that', async () => {
  const id = (await post(api.key, { subject: { email: 'late@example.com' }, scope: { email: true } })).json
    .id;
  const due = await outstandingOf(api.t.ledger, 'crm');
  await api.t.ledger.acknowledge('crm', report([verified(due.at(-1)!)]));
  await withClient(api.t.db.urls.api, async (erasing) => {
    await erasing.query('begin');
    await erasing.query('update opt_outs set note = null where id = $1', [id]);

    const page = await list('?limit=1');

    expect(idsOf(page)).toEqual([id]);
    expect(page.json.opt_outs[0].propagation.state).toBe('complete');
    await erasing.query('rollback');
  });
  const kept = async () =>
    (await api.t.pool.query('select first_completed_at as at from opt_outs where id = $1', [id])).rows[0].at;
  expect(await kept()).toBeNull();
  await list('?limit=1');
  expect(await kept()).not.toBeNull();
});

// What a version's answers say of its end, through the real app with a table of versions made for this test.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { z } from 'zod';
import type { Operation } from '../../api/operation.ts';
import { stateOf } from '../../api/version.ts';
import type { Versions } from '../../api/version.ts';
import { VERSIONS } from '../../api/versions.ts';
import { problemOf } from '../harness/http.ts';
import { serveStub } from './serving.ts';
import type { ServedStub } from './serving.ts';
import { FOUND, ID } from './stub-ledger.ts';

const GUIDE = 'https://example.com/moving-on';

/** A call of a version that exists only here. */
const call = (method: 'get' | 'post', path: `/${string}`): Operation => ({
  method,
  path,
  id: 'made',
  tag: 'Opt-outs',
  summary: 'Made',
  description: 'Made.',
  scopes: ['opt_outs:read'],
  answers: { 200: { description: 'Made.', schema: z.object({}) } },
  examples: {},
});

const versions: Versions = {
  v0: {
    resources: [],
    deprecatedAt: '2026-01-01T00:00:00.000Z',
    sunsetAt: '2026-07-01T00:00:00.000Z',
    link: GUIDE,
  },
  v1: {
    resources: VERSIONS['v1']!.resources,
    deprecatedAt: '2027-01-01T00:00:00.000Z',
    sunsetAt: '2027-12-31T23:59:59.000Z',
    link: GUIDE,
  },
  v9: {
    resources: [
      (routes) => {
        for (const path of ['/v9/opt-outs', '/v9/opt-outs/:id'] as const)
          routes.add(call('get', path), (ctx) => (ctx.body = {}));
      },
    ],
  },
};

let api: ServedStub;
beforeAll(async () => {
  const page = { optOuts: [FOUND], nextCursor: 'x' };
  api = await serveStub({ listOptOuts: () => Promise.resolve(page) }, { versions });
});
afterAll(async () => {
  await api[Symbol.asyncDispose]();
});

const DEPRECATED = { deprecation: '@1798761600', sunset: 'Fri, 31 Dec 2027 23:59:59 GMT' };
const links = (successor: string): string =>
  `<${GUIDE}>; rel="deprecation", <${GUIDE}>; rel="sunset", <${successor}>; rel="successor-version"`;

describe('a deprecated version', () => {
  test('says in every answer since when, until when, and where the same is in the next one', async () => {
    const { status, headers } = await api.send('GET', `/v1/opt-outs/${ID}`, { key: 'shop' });
    expect([status, headers]).toEqual([
      200,
      expect.objectContaining({ ...DEPRECATED, link: links(`/v9/opt-outs/${ID}`) }),
    ]);
  });

  test.each([
    ['a problem', 'GET', '/v1/opt-outs/0199aaaa-0000-7000-8000-00000000000f', 'shop', 404],
    ['a refused credential', 'GET', '/v1/opt-outs', undefined, 401],
    ['a path that is not there', 'GET', '/v1/nothing', 'shop', 404],
    ['a method that is not there', 'DELETE', '/v1/opt-outs', 'shop', 405],
    ['an answer without a body', 'HEAD', `/v1/opt-outs/${ID}`, 'shop', 200],
    ['a body that is refused', 'POST', '/v1/opt-outs', 'shop', 415],
  ] as const)('says so of %s as well', async (_, method, path, key, expected) => {
    const { status, headers } = await api.send(method, path, { key });
    expect([status, headers]).toEqual([expected, expect.objectContaining(DEPRECATED)]);
    expect(headers.link).toContain(`<${GUIDE}>; rel="deprecation"`);
  });

  test("leaves a list's next page where it was", async () => {
    const { headers } = await api.send('GET', '/v1/opt-outs?limit=1', { key: 'shop' });
    expect(headers.link).toBe(`</v1/opt-outs?limit=1&cursor=x>; rel="next", ${links('/v9/opt-outs')}`);
  });

  test('leads to what is written of the next one where the next one has nothing of the kind', async () => {
    const { headers } = await api.send('GET', '/v1/propagation-lag', { key: 'shop' });
    expect(headers.link).toBe(links('/docs/v9'));
  });

  test('lets nobody write links of their own into its answers', async () => {
    const { headers } = await api.send('GET', `/v1/opt-outs/x>;rel="next",<y`, { key: 'shop' });
    expect(headers.link).toBe(links('/docs/v9'));
  });
});

test('a retired version is gone, whatever is asked of it, and says where to go', async () => {
  for (const [method, path] of [
    ['GET', '/v0/opt-outs'],
    ['POST', '/v0/opt-outs'],
    ['DELETE', '/v0/anything'],
    ['GET', '/v0'],
  ] as const) {
    const answer = await api.send(method, path, { key: 'shop' });
    expect(problemOf(answer)).toEqual([410, 'version-retired']);
    expect(answer.headers).toMatchObject({
      deprecation: '@1767225600',
      sunset: 'Wed, 01 Jul 2026 00:00:00 GMT',
    });
    expect(answer.headers.link).toMatch(/<\/(?:v1\/opt-outs|docs\/v1)>; rel="successor-version"$/);
  }
});

test('a version that is not deprecated says nothing of an end, nor does what belongs to no version', async () => {
  for (const path of ['/v9/opt-outs', `/v9/opt-outs/${ID}`, '/v9/nothing', '/livez', '/v10/opt-outs']) {
    const { headers } = await api.send('GET', path, { key: 'shop' });
    expect([headers.deprecation, headers.sunset, headers.link]).toEqual([undefined, undefined, undefined]);
  }
});

describe('who uses which version', () => {
  test('is counted for each call that a key was let in for, whatever it is answered with', async () => {
    const before = api.ledger.uses.length;
    await api.send('GET', `/v1/opt-outs/${ID}`, { key: 'shop' });
    await api.send('GET', '/v1/opt-outs/x', { key: 'other' });
    await api.send('GET', '/v9/opt-outs', { key: 'shop' });
    await api.send('GET', '/v1/opt-outs');
    await api.send('GET', '/v1/opt-outs', { key: 'nothing' });
    await api.send('GET', '/v1/nothing', { key: 'shop' });
    await api.send('GET', '/livez', { key: 'shop' });
    expect(api.ledger.uses.slice(before)).toEqual([
      { version: 'v1', client: 'shop', keyId: 'key-of-shop' },
      { version: 'v1', client: 'other', keyId: 'key-of-other' },
      { version: 'v9', client: 'shop', keyId: 'key-of-shop' },
    ]);
  });

  test('is a metric by version alone, and nobody is 0', async () => {
    await using quiet = await serveStub({}, { versions });
    await quiet.send('GET', '/v9/opt-outs', { key: 'shop' });
    const { text } = await quiet.send('GET', '/metrics');
    expect(text.split('\n').filter((line) => line.startsWith('abide_api_calls_total'))).toEqual([
      'abide_api_calls_total{version="v1"} 0',
      'abide_api_calls_total{version="v9"} 1',
    ]);
  });
});

test('a version is current until it is deprecated, and its end is its end', () => {
  const at = (instant: string) => Object.values(versions).map((one) => stateOf(one, new Date(instant)));
  expect(at('2026-12-31T23:59:59.999Z')).toEqual(['retired', 'current', 'current']);
  expect(at('2027-01-01T00:00:00.000Z')).toEqual(['retired', 'deprecated', 'current']);
  expect(at('2027-12-31T23:59:59.000Z')).toEqual(['retired', 'sunset', 'current']);
});

test('every end in the table is after its beginning, and a version that is gone was deprecated before', () => {
  for (const { resources, deprecatedAt, sunsetAt, link } of Object.values(VERSIONS)) {
    if (deprecatedAt !== undefined) expect(new Date(deprecatedAt).toISOString()).toBe(deprecatedAt);
    if (sunsetAt !== undefined) expect(Date.parse(sunsetAt)).toBeGreaterThanOrEqual(Date.parse(deprecatedAt));
    if (link !== undefined) expect(link).toMatch(/^(?:https:\/\/|\/)[^\s<>"]+$/);
    if (resources.length === 0) expect(deprecatedAt).toBeDefined();
  }
});

test('the versions in the table are in their order', () => {
  const names = Object.keys(VERSIONS);
  expect(names).toEqual(names.toSorted((one, other) => Number(one.slice(1)) - Number(other.slice(1))));
  expect(names.every((name) => /^v\d+$/.test(name))).toBe(true);
});

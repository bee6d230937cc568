// The page of the API: nothing but text of ours, whatever stands in a description.
import { createHash } from 'node:crypto';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { renderReference } from '../../../api/public/reference-page.ts';
import { toOpenApi } from '../../../api/public/openapi.ts';
import { documentOf, newestOf, pageOf, servedVersions } from '../../../api/version.ts';
import { operationsOf, VERSIONS } from '../../../api/versions.ts';
import { serveStub } from '../serving.ts';
import type { ServedStub } from '../serving.ts';

const escaped = (text: string): string =>
  text
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll('"', '&quot;')
    .replaceAll("'", '&#39;');
const NAMES = servedVersions(VERSIONS);
const document = toOpenApi('v1', VERSIONS);

let api: ServedStub;
beforeAll(async () => {
  api = await serveStub();
});
afterAll(async () => {
  await api[Symbol.asyncDispose]();
});

test.each(['/docs', ...NAMES.map(pageOf)])(
  '%s is served without a login, and nothing in it may load, run or be framed',
  async (path) => {
    const { status, headers, text } = await api.send('GET', path);
    expect([status, headers['content-type']]).toEqual([200, 'text/html; charset=utf-8']);
    const policy = headers['content-security-policy']!;
    const style = /<style>(.*?)<\/style>/s.exec(text)![1]!;
    const hash = createHash('sha256').update(style).digest('base64');
    expect(policy).toBe(
      `default-src 'none'; style-src 'sha256-${hash}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'`,
    );
    // Nothing is even tried that the policy would refuse.
    expect(text).not.toMatch(/<(?:script|img|link|iframe|form|object)\b|\son\w+=|\sstyle=|\ssrc=/i);
  },
);

test.each(NAMES)('the page of %s names no other host, and every link leads somewhere', async (name) => {
  const text = renderReference(toOpenApi(name, VERSIONS), name, VERSIONS);
  const targets = [...text.matchAll(/href="([^"]*)"/g)].map(([, target]) => target!);
  const ids = new Set([...text.matchAll(/\sid="([^"]*)"/g)].map(([, id]) => `#${id!}`));
  const elsewhere = targets.filter((target) => !ids.has(target));
  expect([...new Set(elsewhere)]).toEqual([
    ...NAMES.filter((other) => other !== name).map(pageOf),
    documentOf(name),
  ]);
  for (const path of elsewhere) expect((await api.send('GET', path)).status).toBe(200);
  expect(targets.length).toBeGreaterThan(elsewhere.length);
});

// The README sends readers to /docs, which is v2's page: it had nothing of lag, gate and quarantine, and did not say where they
// are.
test('what only another version has is said, with where it is', () => {
  const page = (name: string): string => renderReference(toOpenApi(name, VERSIONS), name, VERSIONS);
  expect(page('v2')).toContain('<p>Only in <a href="/docs/v1">v1</a>: Operations, Workers.</p>');
  expect(page('v1')).toContain('<p>Only in <a href="/docs/v2">v2</a>: Grants, Imports.</p>');
});

test('whoever names no version reads of the newest one', async () => {
  const newest = newestOf(VERSIONS);
  const { text } = await api.send('GET', '/docs');
  expect(text).toBe(renderReference(toOpenApi(newest, VERSIONS), newest, VERSIONS));
});

test('whoever opens the bare address is led there', async () => {
  const { status, headers } = await api.send('GET', '/');
  expect([status, headers['location']]).toEqual([302, '/docs']);
});

test('a deprecated version is told apart', () => {
  const versions = {
    ...VERSIONS,
    v1: { ...VERSIONS['v1']!, deprecatedAt: '2027-01-01T00:00:00.000Z', link: 'https://example.com/' },
  };
  expect(renderReference(toOpenApi('v2', versions), 'v2', versions)).toContain(
    '<a href="/docs/v1">v1, deprecated</a>',
  );
});

test.each(NAMES)('the page of %s has every operation, parameter, schema and example', (name) => {
  const document = toOpenApi(name, VERSIONS);
  const text = renderReference(document, name, VERSIONS);
  for (const methods of Object.values(document.paths))
    for (const operation of Object.values(methods)) {
      expect(text).toContain(`<section id="${operation.operationId}">`);
      for (const { name } of operation.parameters ?? []) expect(text).toContain(`<code>${name}</code>`);
    }
  for (const name of Object.keys(document.components.schemas))
    expect(text).toContain(`<section id="schema-${name}">`);
  const answered = operationsOf(name).flatMap(({ examples }) => Object.values(examples));
  for (const { answer } of answered.filter(({ answer: one }) => one !== undefined))
    expect(text).toContain(escaped(JSON.stringify(answer, undefined, 2)));
});

test('whatever stands in a description, a name or an example is text', () => {
  const evil = `<script>alert(1)</script>"'&\`<b>\``;
  const { paths, components } = document;
  const poisoned = renderReference(
    {
      ...document,
      info: { ...document.info, title: evil, description: `- ${evil}\n\n${evil}` },
      paths: {
        [evil]: {
          get: {
            ...paths['/v1/opt-outs']!['get']!,
            summary: evil,
            operationId: evil,
            parameters: [
              { name: evil, in: 'query', description: evil, schema: { enum: [evil], pattern: evil } },
            ],
          },
        },
      },
      components: {
        ...components,
        schemas: {
          [evil]: {
            description: evil,
            properties: {
              [evil]: { const: evil, description: evil },
              b: { type: evil, format: evil, default: evil },
            },
          },
        },
      },
    },
    'v1',
    VERSIONS,
  );
  expect(poisoned).not.toMatch(/<script|<b>|"'/);
  expect(poisoned).toContain('&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#39;&amp;');
});

// The page of the API: nothing but text of ours, whatever stands in a description.
import { createHash } from 'node:crypto';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { renderReference } from '../../../api/public/reference-page.ts';
import { toOpenApi } from '../../../api/public/openapi.ts';
import { operationsOf } from '../../../api/versions.ts';
import { serveStub } from '../serving.ts';
import type { ServedStub } from '../serving.ts';

const document = toOpenApi(operationsOf('v1'));

let api: ServedStub;
beforeAll(async () => {
  api = await serveStub();
});
afterAll(async () => {
  await api[Symbol.asyncDispose]();
});

test('it is served without a login, and nothing in it may load, run or be framed', async () => {
  const { status, headers, text } = await api.send('GET', '/docs');
  expect([status, headers['content-type']]).toEqual([200, 'text/html; charset=utf-8']);
  const policy = headers['content-security-policy']!;
  const style = /<style>(.*?)<\/style>/s.exec(text)![1]!;
  const hash = createHash('sha256').update(style).digest('base64');
  expect(policy).toBe(
    `default-src 'none'; style-src 'sha256-${hash}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'`,
  );
  // What the policy would refuse is not tried either.
  expect(text).not.toMatch(/<(?:script|img|link|iframe|form|object)\b|\son\w+=|\sstyle=|\ssrc=/i);
});

test('it names no other host, and every link leads somewhere', () => {
  const text = renderReference(document);
  const targets = [...text.matchAll(/href="([^"]*)"/g)].map(([, target]) => target!);
  const ids = new Set([...text.matchAll(/\sid="([^"]*)"/g)].map(([, id]) => `#${id!}`));
  expect(targets.filter((target) => !ids.has(target))).toEqual(['/openapi.json']);
  expect(targets.length).toBeGreaterThan(100);
});

test('it has every operation, parameter, schema and example', () => {
  const text = renderReference(document);
  for (const methods of Object.values(document.paths))
    for (const operation of Object.values(methods)) {
      expect(text).toContain(`<section id="${operation.operationId}">`);
      for (const { name } of operation.parameters ?? []) expect(text).toContain(`<code>${name}</code>`);
    }
  for (const name of Object.keys(document.components.schemas))
    expect(text).toContain(`<section id="schema-${name}">`);
  expect(text).toContain('&quot;outcome&quot;: &quot;already_opted_out&quot;');
});

test('whatever stands in a description, a name or an example is text', () => {
  const evil = `<script>alert(1)</script>"'&\`<b>\``;
  const { paths, components } = document;
  const poisoned = renderReference({
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
  });
  expect(poisoned).not.toMatch(/<script|<b>|"'/);
  expect(poisoned).toContain('&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#39;&amp;');
});

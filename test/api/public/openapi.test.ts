// The document says what the API does: every route, every code, and only what is so.
import { readFileSync } from 'node:fs';
import Router from '@koa/router';
import { createConfig, lintFromString } from '@redocly/openapi-core';
import spectral from '@stoplight/spectral-core';
import rulesets from '@stoplight/spectral-rulesets';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { createRoutes } from '../../../api/operation.ts';
import { documentPath, toOpenApi, toText } from '../../../api/public/openapi.ts';
import { DESCRIBED } from '../../../api/version.ts';
import { operationsOf, VERSIONS } from '../../../api/versions.ts';
import { serveStub } from '../serving.ts';
import type { ServedStub } from '../serving.ts';
import { createFaultsOf } from './faults-of.ts';

const operations = operationsOf('v1');
const document = toOpenApi(operations);
const inDocument = Object.entries(document.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, operation]) => ({ method, path, operation })),
);

let api: ServedStub;
beforeAll(async () => {
  api = await serveStub();
});
afterAll(async () => {
  await api[Symbol.asyncDispose]();
});

test('every route of v1 is in the document, and nothing that is not routed', () => {
  const router = new Router();
  const routes = createRoutes(router, () => () => Promise.resolve(), []);
  for (const add of VERSIONS['v1']!.resources) add(routes, DESCRIBED);
  const routed = router.stack.map(
    ({ methods, path }) => `${methods.find((method) => method !== 'HEAD')} ${documentPath(path as string)}`,
  );
  expect(inDocument.map(({ method, path }) => `${method.toUpperCase()} ${path}`).sort()).toEqual(
    routed.sort(),
  );
});

test('whoever asks a path of the document is told that a credential is missing, not that there is no such path', async () => {
  for (const { method, path } of inDocument) {
    const { status } = await api.send(method.toUpperCase(), path.replaceAll(/\{\w+\}/g, 'x'));
    expect(`${method} ${path} ${status}`).toBe(`${method} ${path} 401`);
  }
});

test('docs/openapi.json is what the schemas say now (npm run openapi writes it)', () => {
  expect(readFileSync('docs/openapi.json', 'utf8')).toBe(toText(document));
});

test('it is served without a login, as it is committed', async () => {
  const { status, headers, text } = await api.send('GET', '/openapi.json');
  expect([status, headers['content-type']]).toEqual([200, 'application/json; charset=utf-8']);
  expect(text).toBe(toText(document));
});

test('no answer means do not send: the first line says so', () => {
  const check = inDocument.find(({ path }) => path === '/v1/checks')!;
  expect(check.operation.description.split('\n')[0]).toBe('No answer means do not send.');
});

test('each operation has an id of its own', () => {
  const ids = inDocument.map(({ operation }) => operation.operationId);
  expect(new Set(ids).size).toBe(ids.length);
});

describe('examples', () => {
  const faultsOf = createFaultsOf(document);

  test.each(inDocument)('of $method $path are as its schemas say', ({ method, path, operation }) => {
    const at = ['paths', path, method];
    for (const [n, { schema: _, examples = {} }] of (operation.parameters ?? []).entries())
      for (const { value } of Object.values(examples))
        expect(faultsOf([...at, 'parameters', String(n), 'schema'], value)).toEqual([]);
    for (const [type, { examples = {} }] of Object.entries(operation.requestBody?.content ?? {}))
      for (const { value } of Object.values(examples))
        expect(faultsOf([...at, 'requestBody', 'content', type, 'schema'], value)).toEqual([]);
    for (const [status, response] of Object.entries(operation.responses)) {
      if ('$ref' in response) continue;
      for (const [type, { examples = {} }] of Object.entries(response.content))
        for (const { value } of Object.values(examples))
          expect(faultsOf([...at, 'responses', status, 'content', type, 'schema'], value)).toEqual([]);
    }
  });
});

describe('clean under the recommended rules of', () => {
  test('Redocly', async () => {
    const config = await createConfig({ extends: ['recommended'] });
    const problems = await lintFromString({ source: toText(document), absoluteRef: 'openapi.json', config });
    const said = problems.map(({ ruleId, message, location }) => ({
      rule: ruleId,
      message,
      at: location[0]?.pointer,
    }));
    expect(said).toEqual([]);
  });

  test('Spectral', async () => {
    const linter = new spectral.Spectral();
    linter.setRuleset({ extends: [rulesets.oas as never] });
    const said = await linter.run(document as never);
    expect(said.map(({ code, message, path }) => ({ code, message, path: path.join('/') }))).toEqual([]);
  });
});

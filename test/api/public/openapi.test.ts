// The documents say what the API does: every route of every version, every code, and nothing else. A new version is checked like
// the others as soon as it is in the table.
import { readdirSync, readFileSync } from 'node:fs';
import Router from '@koa/router';
import { createConfig, lintFromString } from '@redocly/openapi-core';
import spectral from '@stoplight/spectral-core';
import rulesets from '@stoplight/spectral-rulesets';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { createRoutes } from '../../../api/operation.ts';
import { documentPath, toOpenApi, toText } from '../../../api/public/openapi.ts';
import type { OpenApi } from '../../../api/public/openapi.ts';
import { DESCRIBED, documentOf, newestOf, servedVersions } from '../../../api/version.ts';
import type { Versions } from '../../../api/version.ts';
import { VERSIONS } from '../../../api/versions.ts';
import { serveStub } from '../serving.ts';
import type { ServedStub } from '../serving.ts';
import { createFaultsOf } from './faults-of.ts';

let api: ServedStub;
beforeAll(async () => {
  api = await serveStub();
});
afterAll(async () => {
  await api[Symbol.asyncDispose]();
});

const operationsIn = ({ paths }: OpenApi) =>
  Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ method, path, operation })),
  );

async function redocly(document: OpenApi): Promise<unknown[]> {
  const config = await createConfig({ extends: ['recommended'] });
  const problems = await lintFromString({ source: toText(document), absoluteRef: 'openapi.json', config });
  return problems.map(({ ruleId, message, location }) => ({
    rule: ruleId,
    message,
    at: location[0]?.pointer,
  }));
}

async function spectralOas(document: OpenApi): Promise<unknown[]> {
  const linter = new spectral.Spectral();
  linter.setRuleset({ extends: [rulesets.oas as never] });
  const said = await linter.run(document as never);
  return said.map(({ code, message, path }) => ({ code, message, path: path.join('/') }));
}

describe.each(servedVersions(VERSIONS))('the document of %s', (name) => {
  const document = toOpenApi(name, VERSIONS);
  const inDocument = operationsIn(document);

  test('has every route of the version, and nothing that is not routed', () => {
    const router = new Router();
    const routes = createRoutes(router, () => () => Promise.resolve());
    for (const add of VERSIONS[name]!.resources) add(routes, DESCRIBED);
    const routed = router.stack.map(
      ({ methods, path }) => `${methods.find((method) => method !== 'HEAD')} ${documentPath(path as string)}`,
    );
    expect(inDocument.map(({ method, path }) => `${method.toUpperCase()} ${path}`).sort()).toEqual(
      routed.sort(),
    );
    expect(inDocument.filter(({ path }) => !path.startsWith(`/${name}/`))).toEqual([]);
    expect(document.info['version']).toBe(name.slice(1));
  });

  test('has paths that ask for a credential, and are not unknown', async () => {
    for (const { method, path } of inDocument) {
      const { status } = await api.send(method.toUpperCase(), path.replaceAll(/\{\w+\}/g, 'x'));
      expect(`${method} ${path} ${status}`).toBe(`${method} ${path} 401`);
    }
  });

  test('is committed as the schemas say it now (npm run openapi writes it)', () => {
    expect(readFileSync(`docs/openapi-${name}.json`, 'utf8')).toBe(toText(document));
  });

  test('is served without a login, as it is committed', async () => {
    const { status, headers, text } = await api.send('GET', documentOf(name));
    expect([status, headers['content-type']]).toEqual([200, 'application/json; charset=utf-8']);
    expect(text).toBe(toText(document));
  });

  test('says in the first line of each check what no answer means', () => {
    const checks = inDocument.filter(({ operation }) => operation.tags.includes('Checks'));
    expect(checks.length).toBeGreaterThan(0);
    for (const { operation } of checks) expect(operation.description).toMatch(/^No answer means /);
  });

  test('has an id of its own for each operation', () => {
    const ids = inDocument.map(({ operation }) => operation.operationId);
    expect(new Set(ids).size).toBe(ids.length);
  });

  test('says that an operation is deprecated if and only if the version is', () => {
    const isDeprecated = VERSIONS[name]!.deprecatedAt !== undefined;
    expect(inDocument.map(({ operation }) => operation.deprecated ?? false)).toEqual(
      inDocument.map(() => isDeprecated),
    );
  });

  describe('has examples', () => {
    const faultsOf = createFaultsOf(document);

    test.each(inDocument)('of $method $path that are as its schemas say', ({ method, path, operation }) => {
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

  test("is clean under Redocly's recommended rules", async () => {
    expect(await redocly(document)).toEqual([]);
  });

  test("is clean under Spectral's recommended rules", async () => {
    expect(await spectralOas(document)).toEqual([]);
  });
});

test('whoever names no version reads the newest one', async () => {
  const { text } = await api.send('GET', '/openapi.json');
  expect(text).toBe(toText(toOpenApi(newestOf(VERSIONS), VERSIONS)));
});

test('no document is committed of a version that is not served', () => {
  const committed = readdirSync('docs').filter((file) => file.startsWith('openapi'));
  expect(committed).toEqual(servedVersions(VERSIONS).map((name) => `openapi-${name}.json`));
});

test('a deprecated version says so in its document, which stays clean', async () => {
  const versions: Versions = {
    v1: {
      resources: VERSIONS['v1']!.resources,
      deprecatedAt: '2027-01-01T00:00:00.000Z',
      sunsetAt: '2027-12-31T00:00:00.000Z',
      link: 'https://example.com/moving-to-v2',
    },
    v2: VERSIONS['v2']!,
  };
  const document = toOpenApi('v1', versions);
  expect(document.info.description).toContain(
    'This version has been deprecated since 2027-01-01T00:00:00.000Z, and may be gone from 2027-12-31T00:00:00.000Z on. Use v2 instead (`/docs/v2`). More: https://example.com/moving-to-v2',
  );
  for (const { operation } of operationsIn(document)) {
    expect(operation.deprecated).toBe(true);
    for (const response of Object.values(operation.responses)) {
      const { headers } =
        '$ref' in response ? document.components.responses[response.$ref.split('/').at(-1)!]! : response;
      expect(Object.keys(headers!)).toEqual(expect.arrayContaining(['Deprecation', 'Sunset', 'Link']));
    }
  }
  expect([await redocly(document), await spectralOas(document)]).toEqual([[], []]);
});

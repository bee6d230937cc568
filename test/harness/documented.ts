// Whatever a test is about, an answer of the API must be one that its document has, with the members that stand there and no other.
// So neither a handler nor its description changes alone.
import { expect } from '@jest/globals';
import { documentPath, toOpenApi } from '../../api/public/openapi.ts';
import { servedVersions } from '../../api/version.ts';
import { operationsOf, VERSIONS } from '../../api/versions.ts';

const known = servedVersions(VERSIONS).flatMap((name) => {
  const { paths } = toOpenApi(name, VERSIONS);
  return operationsOf(name).map((operation) => ({
    operation,
    method: operation.method.toUpperCase(),
    form: new RegExp(`^${operation.path.replaceAll(/:\w+/g, '[^/]+')}$`),
    statuses: Object.keys(paths[documentPath(operation.path)]![operation.method]!.responses),
  }));
});

type Looked = {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | undefined>>;
  readonly text: string;
  readonly json: unknown;
};

/** An answer to something that the document does not have (a probe, another method) is not looked at. */
export function expectDocumented(method: string, url: URL, { status, headers, text, json }: Looked): void {
  const found = known.find((one) => one.method === method && one.form.test(url.pathname));
  if (found === undefined) return;
  expect(found.statuses).toContain(String(status));
  const answer = found.operation.answers[status];
  const type = headers['content-type'] ?? '';
  if (answer === undefined || type.startsWith('application/problem+json')) return;
  expect(type.startsWith(answer.type ?? 'application/json')).toBe(true);
  // Reading drops what the schema does not have.
  if (json !== undefined) expect(json).toEqual(answer.schema.parse(json));
  else expect(answer.schema.safeParse(text).success).toBe(true);
}

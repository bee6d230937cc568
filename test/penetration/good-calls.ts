// Calls made from an OpenAPI document alone, every one of them good: as its schemas say and, where no schema can say it, as the
// document says in words, which is what the three tables are for.
import fc from 'fast-check';
import type { DocumentOperation, JsonSchema, OpenApi } from '../../api/public/openapi.ts';

export type Json = null | boolean | number | string | readonly Json[] | Members;
export type Members = { readonly [member: string]: Json };

export type Call = {
  readonly operation: DocumentOperation;
  readonly method: 'GET' | 'POST';
  /** As the document has it: `/v1/opt-outs/{id}`. */
  readonly path: string;
  readonly params: Readonly<Record<string, string>>;
  readonly query: Readonly<Record<string, string>>;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Json | undefined;
};

const word = fc.string({
  unit: fc.constantFrom(...'abcdefghijklmnopqrstuvwxyz0123456789'),
  minLength: 1,
  maxLength: 12,
});
const visible = fc
  .string({ unit: 'grapheme', minLength: 1, maxLength: 40 })
  .filter((text) => /\S/u.test(text));
const scope = fc.constantFrom('email', 'sms', 'push', 'email/newsletter', 'analytics');
const storeName = fc.constantFrom('crm', 'crm', 'crm', 'mail', 'nowhere', '🙂', '%', 'a b', '\u202e');
/** Numbers that exist, among some that do not. */
const numbered = fc.oneof(
  fc.integer({ min: 1, max: 200 }),
  fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER }),
);

/** What the document says in words of a value of that name. */
const SAID_OF: Readonly<Record<string, fc.Arbitrary<Json>>> = {
  email: fc
    .tuple(word, fc.constantFrom('example.com', 'Example.COM', 'bücher.example'))
    .map((parts) => parts.join('@')),
  phone: fc.integer({ min: 0, max: 9_999 }).map((n) => `+44207183${String(n).padStart(4, '0')}`),
  push_token: visible,
  person_id: visible,
  store: storeName,
  // v2 refuses the name of no store.
  'listOptOuts.store': fc.constantFrom('crm', 'mail'),
  name: storeName,
  scope,
  suppressed: fc.uniqueArray(scope, { minLength: 1, maxLength: 4 }),
  scopes: fc.array(scope, { minLength: 1, maxLength: 6 }),
  cursor: fc.uuid({ version: 7 }).map((id) => Buffer.from(id).toString('base64url')),
  // An older list, whose pages go on after a number.
  'listQuarantine.cursor': fc.integer({ min: 0, max: 999_999_999_999_999 }).map(String),
  'listImports.cursor': fc.uuid({ version: 7 }),
  'listImportErrors.cursor': fc.tuple(fc.nat(), fc.nat({ max: 9_999 })).map((place) => place.join('.')),
  seq: numbered,
  version: numbered,
  generation: fc.oneof(fc.constant(1), numbered),
  Prefer: fc.constantFrom('wait=0', 'respond-async', 'wait=soon', 'wait=0; x="y", handling=strict'),
};

/** What the document says in words of a body as a whole; each function makes it so. */
// eslint-disable-next-line @typescript-eslint/no-explicit-any -- the body of whichever operation it is
const SAID_OF_WHOLE: Readonly<Record<string, (body: any) => void>> = {
  createOptOut: ({ scope: flags }) => {
    if (flags !== undefined && !Object.values(flags as object).includes(true)) flags.email = true;
  },
  check: ({ items }) => {
    for (const item of items)
      if (item.identifiers === undefined) {
        if (item.subject === undefined) item.subjects ??= [{ email: 'ada@example.com' }];
        else delete item.subjects;
      }
  },
  acknowledge: ({ acknowledgements }) => {
    for (const one of acknowledgements)
      if (one.outcome === 'refused' || one.outcome === 'failed') one.code ??= 'STORE_FAILED';
  },
};

/** A call that is answered for as long as somebody listens, and one whose body is a file (import-bombs.pg.test.ts). */
const LEFT_OUT: readonly string[] = ['followPropagationLag', 'createImport'];

const INSTANT = fc
  .tuple(
    fc.date({ min: new Date('1970-01-02'), max: new Date('2026-01-01'), noInvalidDate: true }),
    fc.constantFrom('Z', '+00:00', '-11:30', '+14:00'),
  )
  .map(([at, offset]) => at.toISOString().replace('Z', offset));

export const resolved = (schema: JsonSchema, { components }: OpenApi): JsonSchema =>
  typeof schema['$ref'] === 'string'
    ? resolved(components.schemas[schema['$ref'].split('/').at(-1)!]!, { components } as OpenApi)
    : schema;

function valueOf(document: OpenApi, named: JsonSchema, name = ''): fc.Arbitrary<Json> {
  const schema = resolved(named, document);
  const number = (of: string, otherwise: number): number => (schema[of] as number | undefined) ?? otherwise;
  const least = number('minimum', 0);
  // A member of the same name may be something else elsewhere: flags, a number, a list of rows.
  const items = schema['items'] === undefined ? schema : resolved(schema['items'] as JsonSchema, document);
  if (Object.hasOwn(SAID_OF, name) && ['string', 'integer'].includes(String(items['type'])))
    return SAID_OF[name]!;
  if (Array.isArray(schema['anyOf']))
    return fc.oneof(...(schema['anyOf'] as JsonSchema[]).map((one) => valueOf(document, one)));
  if (schema['const'] !== undefined) return fc.constant(schema['const'] as Json);
  if (Array.isArray(schema['enum'])) return fc.constantFrom(...(schema['enum'] as Json[]));
  if (schema['format'] === 'uuid') return fc.uuid();
  if (schema['format'] === 'date-time') return INSTANT;
  if (typeof schema['pattern'] === 'string')
    return fc.stringMatching(new RegExp(schema['pattern']), { size: 'small' });
  switch (schema['type']) {
    case 'null':
      return fc.constant(null);
    case 'boolean':
      return fc.boolean();
    case 'integer':
      return fc.oneof(
        fc.integer({ min: least, max: Math.min(number('maximum', 200), least + 200) }),
        fc.integer({ min: least, max: number('maximum', Number.MAX_SAFE_INTEGER) }),
      );
    case 'number':
      return fc.integer({ min: 0, max: 1_000_000 }).map((n) => least + n / 1_000);
    case 'string': {
      const longest = number('maxLength', 60);
      const usual = { minLength: number('minLength', 0), maxLength: Math.min(longest, 40) };
      return fc.oneof(
        { weight: 9, arbitrary: fc.string({ unit: 'grapheme-ascii', ...usual }) },
        // A length is of characters, whatever each of them takes.
        { weight: 1, arbitrary: fc.constantFrom('x', 'é', '🙂').map((one) => one.repeat(longest)) },
      );
    }
    case 'array':
      return fc.array(valueOf(document, schema['items'] as JsonSchema), {
        minLength: number('minItems', 0),
        maxLength: Math.min(number('maxItems', 5), 5),
      });
    case 'object': {
      const members = Object.fromEntries(
        Object.entries((schema['properties'] ?? {}) as Record<string, JsonSchema>).map(([own, one]) => [
          own,
          valueOf(document, one, own),
        ]),
      );
      return schema['maxProperties'] === 1
        ? fc.oneof(...Object.entries(members).map(([own, one]) => one.map((value) => ({ [own]: value }))))
        : fc.record(members, {
            requiredKeys: (schema['required'] ?? []) as string[],
            noNullPrototype: true,
          });
    }
    default:
      throw new Error(`no value is made for ${JSON.stringify(schema)}`);
  }
}

function callOf(
  document: OpenApi,
  path: string,
  method: string,
  operation: DocumentOperation,
): fc.Arbitrary<Call> {
  const parameters = (where: string): fc.Arbitrary<Record<string, string>> => {
    const own = (operation.parameters ?? []).filter((one) => one.in === where);
    return fc.record(
      Object.fromEntries(
        own.map(({ name, schema }) => [
          name,
          valueOf(
            document,
            schema,
            Object.hasOwn(SAID_OF, `${operation.operationId}.${name}`)
              ? `${operation.operationId}.${name}`
              : name,
          ).map(String),
        ]),
      ),
      { requiredKeys: own.filter(({ required }) => required).map(({ name }) => name), noNullPrototype: true },
    );
  };
  const schema = operation.requestBody?.content['application/json']!.schema;
  return fc
    .record({
      operation: fc.constant(operation),
      method: fc.constant(method.toUpperCase() as Call['method']),
      path: fc.constant(path),
      params: parameters('path'),
      query: parameters('query'),
      headers: parameters('header').map(({ 'Idempotency-Key': key, ...others }) =>
        key === undefined ? others : { ...others, 'Idempotency-Key': key },
      ),
      body:
        schema === undefined
          ? fc.constant(undefined)
          : valueOf(document, schema).map((body) => {
              SAID_OF_WHOLE[operation.operationId]?.(body);
              return body;
            }),
    })
    .map((call) => {
      // Two different keys in header and body are refused.
      const { 'Idempotency-Key': _, ...headers } = call.headers as Record<string, string>;
      return (call.body as { idempotency_key?: Json } | undefined)?.idempotency_key === undefined
        ? call
        : { ...call, headers };
    });
}

/** Any good call that the document has. */
export const goodCalls = (document: OpenApi): fc.Arbitrary<Call> =>
  fc.oneof(
    ...Object.entries(document.paths).flatMap(([path, methods]) =>
      Object.entries(methods).flatMap(([method, operation]) =>
        LEFT_OUT.includes(operation.operationId) ? [] : [callOf(document, path, method, operation)],
      ),
    ),
  );

// The operations of a version as an OpenAPI 3.1 document. Pure: it puts what the schemas, the error table, the operations and the
// table of versions say into that form.
import { z } from 'zod';
import { ERRORS } from '../../suppression/errors.ts';
import type { ErrorCode } from '../../suppression/errors.ts';
import { CLASS_OF } from '../guard/limits.ts';
import { TAGS } from '../operation.ts';
import type { DocumentedAnswer, Example, HeaderField, Operation } from '../operation.ts';
import { endOf, operationsIn, pageOf, successorOf } from '../version.ts';
import type { Version, Versions } from '../version.ts';
import { PROBLEM_TYPE, RETRIED_LATER } from '../problem.ts';

export type JsonSchema = { readonly description?: string; readonly [member: string]: unknown };
export type Described = { readonly description?: string; readonly schema: JsonSchema };
export type Examples = Readonly<Record<string, { readonly summary?: string; readonly value: unknown }>>;
export type Media = Readonly<
  Record<string, { readonly schema: JsonSchema; readonly examples?: Examples | undefined }>
>;
export type DocumentParameter = Described & {
  readonly name: string;
  readonly in: 'path' | 'query' | 'header';
  readonly required?: true;
  readonly examples?: Examples | undefined;
};
export type DocumentResponse = {
  readonly description: string;
  readonly headers?: Readonly<Record<string, Described | { readonly $ref: string }>>;
  readonly content: Media;
};
export type DocumentOperation = {
  readonly operationId: string;
  readonly deprecated?: true;
  readonly tags: readonly string[];
  readonly summary: string;
  readonly description: string;
  readonly parameters?: readonly DocumentParameter[];
  readonly requestBody?: { readonly required: true; readonly content: Media };
  readonly responses: Readonly<Record<string, DocumentResponse | { readonly $ref: string }>>;
};
export type OpenApi = {
  readonly openapi: '3.1.0';
  readonly info: { readonly title: string; readonly description: string; readonly [member: string]: unknown };
  readonly security: readonly object[];
  readonly servers: readonly object[];
  readonly tags: readonly { readonly name: string; readonly description: string }[];
  readonly paths: Readonly<Record<string, Readonly<Record<string, DocumentOperation>>>>;
  readonly components: {
    readonly securitySchemes: Readonly<Record<string, object>>;
    readonly headers: Readonly<Record<string, Described>>;
    readonly responses: Readonly<Record<string, DocumentResponse>>;
    readonly schemas: Readonly<Record<string, JsonSchema>>;
  };
};

const DESCRIPTION = `Records that people opt out, and proves that every store abides by it.

- Send \`Authorization: Bearer\` and a key, or an access token of an issuer that this installation accepts. Its scopes say what it may do; each call names the scope that it needs.
- Bodies are JSON. Unknown members, duplicate members and nulls are refused by name.
- Times are RFC 3339 with an offset, answered in UTC with milliseconds.
- Answers may get new members: ignore those that you do not know.
- Every error is a problem (RFC 9457) of the form \`Problem\`. Decide by \`code\`; \`retryable\` says whether the same call may succeed later, and then \`Retry-After\` says when.
- If a call gets no answer, repeat it with the same \`Idempotency-Key\`: it is recorded once.`;

const Problem = z
  .object({
    type: z.string().describe('`urn:abide:problem:` and the code.'),
    title: z.string(),
    status: z.int().min(400).max(599),
    detail: z.string().describe('For people; may change. Never has a value of the request in it.'),
    code: z
      .enum(Object.keys(ERRORS) as ErrorCode[])
      .describe('What to decide by. More may come: treat an unknown one by its status.'),
    request_id: z.uuid().describe('Quote it when you report something.'),
    retryable: z.boolean().describe('Whether the same call, unchanged, may succeed later.'),
    errors: z
      .array(
        z
          .object({ pointer: z.string().describe('JSON pointer (RFC 6901).'), detail: z.string() })
          .meta({ title: 'Fault' }),
      )
      .describe(
        'Every fault of the request, with `invalid-value`, `grant-not-later` and `erasure-too-early`.',
      )
      .optional(),
  })
  .meta({ title: 'Problem', description: 'RFC 9457.' });

/** What any call may be answered with; 404, 405, 408 and 431, which belong to no call, stand in docs/errors.md. */
const ALWAYS: readonly ErrorCode[] = [
  'invalid-request',
  'unauthenticated',
  'missing-scope',
  'too-many-requests',
  'internal-error',
  'issuer-unavailable',
  'ledger-unavailable',
  'overloaded',
];
const WITH_BODY: readonly ErrorCode[] = [
  'malformed-json',
  'too-large',
  'unsupported-media-type',
  'invalid-value',
];

/** Headers of every call whose key may have a rate. */
const RATE_LIMIT = Object.fromEntries(
  ['RateLimit-Policy', 'RateLimit'].map((name) => [name, { $ref: `#/components/headers/${name}` }]),
);
const WITH_FILE: readonly ErrorCode[] = ['too-large', 'unsupported-file-type', 'invalid-value'];

const pascal = (code: string): string =>
  code.replaceAll(/(?:^|-)([a-z])/g, (_, letter: string) => letter.toUpperCase());

export const documentPath = (path: string): string => path.replaceAll(/:(\w+)/g, '{$1}');

/** The headers of `endOf`, as the document describes them. */
const END_HEADERS: Readonly<Record<string, Described>> = {
  Deprecation: {
    description: 'Since when this version is deprecated (RFC 9745): `@` and seconds since 1970.',
    schema: { type: 'string' },
  },
  Sunset: {
    description: 'From when on it may be gone (RFC 8594).',
    schema: { type: 'string' },
  },
  Link: {
    description:
      'Where it says why (`rel="deprecation"`, `rel="sunset"`), and where the same is in the next version (`rel="successor-version"`).',
    schema: { type: 'string' },
  },
};

function sayEnd(name: string, version: Version, versions: Versions): string {
  const { deprecatedAt, sunsetAt, link } = version;
  if (deprecatedAt === undefined) return '';
  const next = successorOf(name, versions);
  const until = sunsetAt === undefined ? '' : `, and may be gone from ${sunsetAt} on`;
  const instead = next === undefined ? '' : ` Use ${next} instead (\`${pageOf(next)}\`).`;
  return `\n\nThis version has been deprecated since ${deprecatedAt}${until}.${instead} More: ${link}`;
}

export function toOpenApi(name: string, versions: Versions): OpenApi {
  const version = versions[name]!;
  const operations = operationsIn(version);
  const isDeprecated = version.deprecatedAt !== undefined;
  const ends = isDeprecated ? [...Object.keys(endOf(version, undefined).headers), 'Link'] : [];
  const schemas: Record<string, JsonSchema> = {};
  const responses: Record<string, DocumentResponse> = {};

  const schemaOf = (schema: z.ZodType): JsonSchema => {
    const { $schema: _, ...plain } = z.toJSONSchema(schema, {
      io: 'input',
      unrepresentable: 'any',
      override: ({ zodSchema, jsonSchema }) => {
        // The format says it; the pattern is zod's own.
        if (jsonSchema.format === 'uuid') delete jsonSchema.pattern;
        if (jsonSchema.maximum === Number.MAX_SAFE_INTEGER) delete jsonSchema.maximum;
        if (jsonSchema.minimum === Number.MIN_SAFE_INTEGER) delete jsonSchema.minimum;
        const { def } = zodSchema._zod;
        // Behind a transform zod does not state the default, since what is absent is not transformed.
        if (def.type === 'default') jsonSchema.default = (def as { defaultValue: unknown }).defaultValue;
      },
    });
    return hoist(plain) as JsonSchema;
  };

  /** A schema with a title becomes a component of that name, and a reference to it takes its place. */
  function hoist(node: unknown): unknown {
    if (Array.isArray(node)) return node.map(hoist);
    if (typeof node !== 'object' || node === null) return node;
    const whole = Object.fromEntries(Object.entries(node).map(([name, value]) => [name, hoist(value)]));
    const { title } = whole;
    if (typeof title !== 'string') return whole;
    const { title: _, ...component } = whole;
    const known = schemas[title];
    if (known !== undefined && JSON.stringify(known) !== JSON.stringify(component)) {
      // The same schema with a description of its own, which stands beside the reference.
      const { description, ...rest } = component;
      const { description: __, ...knownRest } = known;
      if (JSON.stringify(rest) !== JSON.stringify(knownRest))
        throw new Error(`two schemas have the title ${title}`);
      return { $ref: `#/components/schemas/${title}`, description };
    }
    schemas[title] = component;
    return { $ref: `#/components/schemas/${title}` };
  }

  const headersOf = (headers: DocumentedAnswer['headers'] = {}) => ({
    'X-Request-Id': { $ref: '#/components/headers/X-Request-Id' },
    ...Object.fromEntries(ends.map((header) => [header, { $ref: `#/components/headers/${header}` }])),
    ...Object.fromEntries(
      Object.entries(headers).map(([name, { description, schema }]) => [
        name,
        { description, schema: schemaOf(schema) },
      ]),
    ),
  });

  const media = (answer: DocumentedAnswer, examples: Examples | undefined): Media => ({
    [answer.type ?? 'application/json']: { schema: schemaOf(answer.schema), examples },
  });

  const problemMedia = (examples?: Examples): Media => ({
    [PROBLEM_TYPE]: { schema: schemaOf(Problem), examples },
  });

  const problemResponse = (status: number, codes: readonly ErrorCode[]): DocumentResponse => ({
    description: codes.map((code) => `\`${code}\`: ${ERRORS[code].title}. ${ERRORS[code].help}`).join('\n\n'),
    headers: {
      ...headersOf(),
      ...(RETRIED_LATER.includes(status)
        ? { 'Retry-After': { $ref: '#/components/headers/Retry-After' } }
        : {}),
      ...(status === 429 ? RATE_LIMIT : {}),
      ...(status === 401 ? { 'WWW-Authenticate': { $ref: '#/components/headers/WWW-Authenticate' } } : {}),
    },
    content: problemMedia(),
  });

  function responsesOf(operation: Operation): DocumentOperation['responses'] {
    const codes = new Set<ErrorCode>([
      ...ALWAYS,
      ...(operation.body === undefined ? [] : WITH_BODY),
      ...(operation.file === undefined ? [] : WITH_FILE),
      ...(operation.query === undefined && operation.method === 'get' ? [] : (['invalid-value'] as const)),
      ...(operation.problems ?? []),
    ]);
    const statuses = new Set([
      ...Object.keys(operation.answers).map(Number),
      ...[...codes].map((code) => ERRORS[code].status),
    ]);
    return Object.fromEntries(
      [...statuses]
        .sort((one, other) => one - other)
        .map((status) => [String(status), responseOf(operation, status, codes)]),
    );
  }

  function responseOf(
    operation: Operation,
    status: number,
    all: ReadonlySet<ErrorCode>,
  ): DocumentResponse | { $ref: string } {
    const codes = [...all].filter((code) => ERRORS[code].status === status);
    const examples = examplesOf(operation, (one) => (one.status === status ? one.answer : undefined));
    const answer = operation.answers[status];
    if (answer !== undefined) {
      const problem = codes.length === 0 ? undefined : problemResponse(status, codes);
      return {
        description: [answer.description, problem?.description]
          .filter((text) => text !== undefined)
          .join('\n\n'),
        headers: {
          ...headersOf(answer.headers),
          ...(CLASS_OF[operation.scopes[0]] === undefined ? {} : RATE_LIMIT),
          ...problem?.headers,
        },
        content: { ...media(answer, examples), ...problem?.content },
      };
    }
    const response = problemResponse(status, codes);
    if (examples !== undefined) return { ...response, content: problemMedia(examples) };
    const name = codes.map(pascal).join('Or');
    responses[name] = response;
    return { $ref: `#/components/responses/${name}` };
  }

  const parameterOf = (
    operation: Operation,
    where: DocumentParameter['in'],
    name: string,
    field: HeaderField | z.ZodType,
  ): DocumentParameter => {
    const isField = !(field instanceof z.ZodType);
    const schema = schemaOf(isField ? field.schema : field);
    const { description, ...rest } = schema;
    const said = isField ? field.description : description;
    return {
      name,
      in: where,
      ...(said === undefined ? {} : { description: said }),
      ...(where === 'path' || (where === 'query' && !(field as z.ZodType).safeParse(undefined).success)
        ? { required: true as const }
        : {}),
      schema: rest,
      examples: examplesOf(operation, (one) => {
        const given = { path: one.path, query: one.query, header: one.headers }[where]?.[name];
        // A query is text; its schema says what the text stands for.
        return given !== undefined && ['integer', 'number'].includes(String(rest['type']))
          ? Number(given)
          : given;
      }),
    };
  };

  const operationOf = (operation: Operation): DocumentOperation => {
    const parameters = [
      ...Object.entries(operation.params ?? {}).map(([name, schema]) =>
        parameterOf(operation, 'path', name, schema),
      ),
      ...Object.entries(operation.query?.shape ?? {}).map(([name, schema]) =>
        parameterOf(operation, 'query', name, schema as z.ZodType),
      ),
      ...Object.entries(operation.headers ?? {}).map(([name, field]) =>
        parameterOf(operation, 'header', name, field),
      ),
    ];
    return {
      operationId: operation.id,
      ...(isDeprecated ? { deprecated: true as const } : {}),
      tags: [operation.tag],
      summary: operation.summary,
      description: `${operation.description}\n\nScope needed: ${operation.scopes.map((scope) => `\`${scope}\``).join(' or ')}.`,
      ...(parameters.length === 0 ? {} : { parameters }),
      ...(operation.body === undefined
        ? {}
        : {
            requestBody: {
              required: true,
              content: {
                'application/json': {
                  schema: schemaOf(operation.body),
                  // A body that is refused would not be an example of what the schema takes.
                  examples: examplesOf(operation, (one) => (one.status < 400 ? one.body : undefined)),
                },
              },
            },
          }),
      ...(operation.file === undefined ? {} : { requestBody: fileOf(operation, operation.file) }),
      responses: responsesOf(operation),
    };
  };

  const fileOf = (operation: Operation, { types, description }: NonNullable<Operation['file']>) => ({
    required: true as const,
    content: Object.fromEntries(
      types.map((type) => [
        type,
        {
          schema: { type: 'string', description },
          examples: examplesOf(operation, (one) =>
            one.status < 400 && one.headers?.['content-type'] === type ? one.body : undefined,
          ),
        },
      ]),
    ),
  });

  const paths: Record<string, Record<string, DocumentOperation>> = {};
  for (const operation of operations)
    (paths[documentPath(operation.path)] ??= {})[operation.method] = operationOf(operation);

  const document: OpenApi = {
    openapi: '3.1.0',
    info: {
      title: 'Abide',
      version: name.slice(1),
      description: DESCRIPTION + sayEnd(name, version, versions),
      contact: { name: 'The operators of this installation' },
      license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
    },
    security: [{ bearer: [] }],
    servers: [{ url: '/', description: 'Where this document was read.' }],
    tags: Object.entries(TAGS)
      .filter(([tag]) => operations.some((operation) => operation.tag === tag))
      .map(([tag, description]) => ({ name: tag, description })),
    paths,
    components: {
      securitySchemes: {
        bearer: {
          type: 'http',
          scheme: 'bearer',
          description:
            'An API key, made by `abide keys create`, or an access token (RFC 9068) of an issuer that this installation accepts.',
        },
      },
      headers: {
        'X-Request-Id': {
          description: 'Of this one request; it is in the audit log and in our log.',
          schema: { type: 'string', format: 'uuid' },
        },
        ...Object.fromEntries(ends.map((header) => [header, END_HEADERS[header]!])),
        'Retry-After': { description: 'Seconds.', schema: { type: 'integer', minimum: 1 } },
        'RateLimit-Policy': {
          description:
            'The rate of your key, if it has one: `"reads";q=10000;w=10` allows 10,000 calls of this class in 10 seconds, refilled evenly (draft-ietf-httpapi-ratelimit-headers-10, which may change).',
          schema: { type: 'string' },
        },
        RateLimit: {
          description:
            'What is left of it: `"reads";r=9998;t=1` means 9,998 calls, and more within a second (the same draft).',
          schema: { type: 'string' },
        },
        'WWW-Authenticate': { description: 'Which credential is needed.', schema: { type: 'string' } },
      },
      responses: sorted(responses),
      schemas: sorted(schemas),
    },
  };
  // Leaves out the members that are undefined.
  return JSON.parse(JSON.stringify(document)) as OpenApi;
}

const sorted = <T>(record: Record<string, T>): Record<string, T> =>
  Object.fromEntries(Object.entries(record).sort(([one], [other]) => (one < other ? -1 : 1)));

/** The examples of an operation that have something there; undefined if none has. */
function examplesOf(operation: Operation, pick: (example: Example) => unknown): Examples | undefined {
  const picked = Object.entries(operation.examples).flatMap(([name, example]) => {
    const value = pick(example);
    return value === undefined ? [] : [[name, { summary: example.summary, value }] as const];
  });
  return picked.length === 0 ? undefined : Object.fromEntries(picked);
}

/** The text as it is served and committed. */
export const toText = (document: OpenApi): string => `${JSON.stringify(document, undefined, 2)}\n`;

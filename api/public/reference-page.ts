// The document as a page, made here of nothing but text, so that it needs no script and nothing from another host.
import { createHash } from 'node:crypto';
import { documentOf, newestOf, operationsIn, pageOf, servedVersions } from '../version.ts';
import type { Versions } from '../version.ts';
import type { DocumentOperation, DocumentResponse, Examples, JsonSchema, Media, OpenApi } from './openapi.ts';

const STYLE = `
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 20%, transparent); --soft: color-mix(in srgb, currentColor 6%, transparent); }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 60rem; padding: 1rem; }
code, pre { font: 0.875em/1.5 ui-monospace, monospace; }
code { overflow-wrap: anywhere; }
pre { background: var(--soft); overflow-x: auto; padding: 0.75rem; }
section { border-top: 1px solid var(--line); margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; }
th, td { border-top: 1px solid var(--line); padding: 0.375rem 0.75rem 0.375rem 0; text-align: left; vertical-align: top; }
td p { margin: 0; }
nav ul { list-style: none; padding: 0; }
.method { display: inline-block; font-weight: 600; min-width: 3.5rem; }
`;

/** No script, no image, no frame, no form; the only style is the one above. */
export const REFERENCE_POLICY = `default-src 'none'; style-src 'sha256-${createHash('sha256').update(STYLE).digest('base64')}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'`;

/** Finished text of the page, which need not be escaped. */
class Html {
  readonly text: string;
  constructor(text: string) {
    this.text = text;
  }
}

const ENTITIES: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};

type Part = string | Html | undefined | readonly Part[];

const toHtml = (part: Part): string =>
  part === undefined
    ? ''
    : part instanceof Html
      ? part.text
      : typeof part === 'string'
        ? part.replaceAll(/[&<>"']/g, (sign) => ENTITIES[sign]!)
        : part.map(toHtml).join('');

/** Escapes whatever is put in, except what came out of here. */
const html = (texts: TemplateStringsArray, ...parts: readonly Part[]): Html =>
  new Html(texts.map((text, n) => text + toHtml(parts[n])).join(''));

/** What descriptions are written in: paragraphs, lists, code. */
const prose = (text: string): Html[] =>
  text.split('\n\n').map((block) =>
    block.startsWith('- ')
      ? html`<ul>
          ${block.split('\n').map((line) => html`<li>${inline(line.replace(/^- /, ''))}</li>`)}
        </ul>`
      : html`<p>${inline(block)}</p>`,
  );
const inline = (text: string): Part[] =>
  text.split('`').map((piece, n) => (n % 2 === 1 ? html`<code>${piece}</code>` : piece));

const json = (value: unknown): Html => html`<pre><code>${JSON.stringify(value, undefined, 2)}</code></pre>`;

const nameOf = (ref: unknown): string => String(ref).split('/').at(-1)!;

/** A schema in a few words: what it is, and what it may be. */
function brief(schema: JsonSchema): Part {
  const { $ref: ref, type, anyOf, items, additionalProperties, format, pattern, enum: values } = schema;
  if (ref !== undefined) return html`<a href="#schema-${nameOf(ref)}">${nameOf(ref)}</a>`;
  if (Array.isArray(anyOf))
    return (anyOf as JsonSchema[]).flatMap((one, n) => (n === 0 ? [brief(one)] : [' or ', brief(one)]));
  if (schema['const'] !== undefined) return html`<code>${JSON.stringify(schema['const'])}</code>`;
  if (Array.isArray(values))
    return values.flatMap((one, n) => [n === 0 ? '' : ', ', html`<code>${String(one)}</code>`]);
  if (type === 'array') return ['array of ', brief((items ?? {}) as JsonSchema)];
  if (type === 'object' && typeof additionalProperties === 'object')
    return ['object of ', brief(additionalProperties as JsonSchema)];
  const limits = ['minimum', 'maximum', 'minLength', 'maxLength', 'maxItems', 'default']
    .filter((name) => schema[name] !== undefined)
    .map((name) => `, ${name} ${String(schema[name])}`);
  return [
    typeof type === 'string' ? type : 'anything',
    typeof format === 'string' ? ` (${format})` : '',
    ...limits,
    typeof pattern === 'string' ? [', ', html`<code>${pattern}</code>`] : '',
  ];
}

/** A schema's members as rows; those of an object inside it stand below it, by their path. */
function members(schema: JsonSchema, prefix = ''): Html[] {
  const properties = (schema['properties'] ?? {}) as Record<string, JsonSchema>;
  const required = (schema['required'] ?? []) as readonly string[];
  return Object.entries(properties).flatMap(([name, one]) => {
    const options = [one, ...((one['anyOf'] ?? []) as JsonSchema[])];
    const isList = one['type'] === 'array';
    const within = isList ? [one['items'] as JsonSchema] : options;
    return [
      html`<tr>
        <td><code>${prefix}${name}</code>${required.includes(name) ? '' : html` <small>optional</small>`}</td>
        <td>${brief(one)}</td>
        <td>${prose(one.description ?? '')}</td>
      </tr>`,
      ...within.flatMap((inner) => members(inner, `${prefix}${name}${isList ? '[]' : ''}.`)),
    ];
  });
}

const table = (rows: readonly Html[]): Part =>
  rows.length === 0
    ? undefined
    : html`<table>
        ${rows}
      </table>`;

const examples = (of: Examples | undefined): Html[] =>
  Object.entries(of ?? {}).map(
    ([name, { summary, value }]) =>
      html`<details>
        <summary>Example: ${summary ?? name}</summary>
        ${typeof value === 'string' ? html`<pre><code>${value}</code></pre>` : json(value)}
      </details>`,
  );

const content = (media: Media): Html[] =>
  Object.entries(media).map(
    ([type, { schema, examples: of }]) =>
      html`<p><code>${type}</code>: ${brief(schema)}</p>
        ${examples(of)}`,
  );

/** What a reference into `components` stands for. */
const found = <T extends object>(
  one: T | { readonly $ref: string },
  within: Readonly<Record<string, T>>,
): T => ('$ref' in one ? within[nameOf(one.$ref)]! : one);

function response(
  status: string,
  { description, headers, content: media }: DocumentResponse,
  { components }: OpenApi,
): Html {
  return html`<h4>${status}</h4>
    ${prose(description)}
    ${table(
      Object.entries(headers ?? {}).map(
        ([name, header]) =>
          html`<tr>
            <td><code>${name}</code></td>
            <td>${prose(found(header, components.headers).description ?? '')}</td>
          </tr>`,
      ),
    )}
    ${content(media)}`;
}

const operation = (method: string, path: string, one: DocumentOperation, document: OpenApi): Html =>
  html`<section id="${one.operationId}">
    <h3>${one.summary}</h3>
    <p><span class="method">${method.toUpperCase()}</span> <code>${path}</code></p>
    ${prose(one.description)}
    ${table(
      (one.parameters ?? []).map(
        (parameter) =>
          html`<tr>
            <td><code>${parameter.name}</code> <small>${parameter.in}</small></td>
            <td>${brief(parameter.schema)}</td>
            <td>${prose(parameter.description ?? '')}</td>
          </tr>`,
      ),
    )}
    ${
      one.requestBody === undefined
        ? undefined
        : html`<h4>Body</h4>
            ${content(one.requestBody.content)}`
    }
    ${Object.entries(one.responses).map(([status, of]) =>
      response(status, found(of, document.components.responses), document),
    )}
  </section>`;

/** The other versions, each with its page. */
const others = (name: string, versions: Versions): Part =>
  servedVersions(versions).length === 1
    ? undefined
    : html`<p>
        Versions:
        ${servedVersions(versions).map((one) => {
          const label = `${one}${one === newestOf(versions) ? ', the newest' : ''}${versions[one]!.deprecatedAt === undefined ? '' : ', deprecated'}`;
          return one === name
            ? html`<strong>${label}</strong> `
            : html`<a href="${pageOf(one)}">${label}</a> `;
        })}
      </p>`;

/** What other versions have and this one has not: somebody looking for the lag in the newest one would not find it. */
const elsewhere = (name: string, versions: Versions): Part[] => {
  const tagsOf = (one: string): Set<string> => new Set(operationsIn(versions[one]!).map(({ tag }) => tag));
  const own = tagsOf(name);
  return servedVersions(versions).flatMap((one) => {
    const more = [...tagsOf(one)].filter((tag) => !own.has(tag));
    return more.length === 0
      ? []
      : [html`<p>Only in <a href="${pageOf(one)}">${one}</a>: ${more.join(', ')}.</p>`];
  });
};

export function renderReference(document: OpenApi, name: string, versions: Versions): string {
  const { info, tags, paths, components } = document;
  const all = Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, one]) => ({ method, path, one })),
  );
  const tagged = tags.map((tag) => ({ tag, own: all.filter(({ one }) => one.tags.includes(tag.name)) }));
  return html`<!doctype html>
    <html lang="en">
      <meta charset="utf-8" />
      <meta name="viewport" content="width=device-width, initial-scale=1" />
      <title>${info.title}: the HTTP API, ${name}</title>
      ${new Html(`<style>${STYLE}</style>`)}
      <h1>${info.title}: the HTTP API, ${name}</h1>
      ${others(name, versions)} ${elsewhere(name, versions)} ${prose(info.description)}
      <p>
        The same for machines: <a href="${documentOf(name)}">openapi.json</a> (OpenAPI ${document.openapi}).
      </p>
      <nav>
        ${tagged.map(
          ({ tag, own }) =>
            html`<h2>${tag.name}</h2>
              ${prose(tag.description)}
              <ul>
                ${own.map(
                  ({ method, path, one }) =>
                    html`<li>
                      <a href="#${one.operationId}"
                        ><span class="method">${method.toUpperCase()}</span> <code>${path}</code></a
                      >
                      ${one.summary}
                    </li>`,
                )}
              </ul>`,
        )}
      </nav>
      <main>
        ${tagged.flatMap(({ own }) => own.map(({ method, path, one }) => operation(method, path, one, document)))}
        ${Object.entries(components.schemas).map(
          ([name, schema]) =>
            html`<section id="schema-${name}">
              <h3>${name}</h3>
              ${prose(schema.description ?? '')}
              ${schema['properties'] === undefined ? html`<p>${brief(schema)}</p>` : table(members(schema))}
            </section>`,
        )}
      </main>
    </html>`.text;
}

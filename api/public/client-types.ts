// What the document says of requests and answers, as the types that client/ is written against.
import openapiTS, { astToString } from 'openapi-typescript';
import type { OpenApi } from './openapi.ts';

const HEAD = '// Written by `npm run openapi` from what the API says of itself; a test compares.\n';

/** The text as it is committed, under client/. */
export async function clientTypes(document: OpenApi): Promise<string> {
  const nodes = await openapiTS(document as Parameters<typeof openapiTS>[0] & object, {
    immutable: true,
    // A member that has a default may be left out of a request.
    defaultNonNullable: false,
  });
  return HEAD + astToString(nodes);
}

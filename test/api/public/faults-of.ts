// What a client's own validator would say, with nothing but the document.
import { Ajv2020 } from 'ajv/dist/2020.js';
import type { OpenApi } from '../../../api/public/openapi.ts';

/** The faults of a value against the schema at that place of the document. */
export function createFaultsOf(document: OpenApi): (place: readonly string[], value: unknown) => unknown[] {
  const ajv = new Ajv2020({ strict: false, validateFormats: false, allErrors: true });
  ajv.addSchema(document, 'document');
  return (place, value) => {
    const path = place.map((part) => encodeURIComponent(part.replaceAll('~', '~0').replaceAll('/', '~1')));
    const validate = ajv.compile({ $ref: `document#/${path.join('/')}` });
    void validate(value);
    return validate.errors ?? [];
  };
}

/** @param {string} name */
export const farewell = (name) => `goodbye ${name}`;

"""The API's description: `/openapi.json` and `/docs`, made of what routes and operations say of themselves."""

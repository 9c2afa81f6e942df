"""How the API is served and described: tables that no environment changes."""

from typing import Any

REST_FRAMEWORK: dict[str, Any] = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "workflow.api.authentication.NovaKeyAuthentication",
        "workflow.api.authentication.OperatorKeyAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "EXCEPTION_HANDLER": "workflow.api.problem.problem_response",
    "DEFAULT_SCHEMA_CLASS": "workflow.api.schema.DoorSchema",
}
SPECTACULAR_SETTINGS: dict[str, Any] = {
    "TITLE": "NOVAWF",
    "DESCRIPTION": "The control plane for AI agents that work around the clock. docs/api.md says what each address means.",
    "VERSION": "1",
    "OAS_VERSION": "3.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_AUTHENTICATION": [],
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "SORT_OPERATIONS": False,
    "ENUM_GENERATE_CHOICE_DESCRIPTION": False,
    "COMPONENT_SPLIT_REQUEST": True,
    "COMPONENT_NO_READ_ONLY_REQUIRED": False,
    "PREPROCESSING_HOOKS": ["workflow.api.schema.spell_out_verbs"],
    "POSTPROCESSING_HOOKS": ["workflow.api.schema.finish"],
}

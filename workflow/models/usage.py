"""What calls to models came to, a row for each Nova and day, and what they cost."""

from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Q

from safety.models import ProviderAccount
from workflow.models.nova import Nova


class NovaUsage(models.Model):
    """What a Nova used on one day (UTC). Only ever added to; budgets are held against it."""

    id = models.BigAutoField(primary_key=True)
    nova = models.ForeignKey(Nova, on_delete=models.PROTECT, related_name="usage", db_index=False)
    day = models.DateField()
    requests = models.PositiveBigIntegerField(default=0)
    input_tokens = models.PositiveBigIntegerField(default=0)
    output_tokens = models.PositiveBigIntegerField(default=0)
    tool_uses = models.PositiveBigIntegerField(default=0)
    cost_micros = models.PositiveBigIntegerField(default=0)  # millionths of the currency that the prices are in

    class Meta:
        verbose_name_plural = "usage"
        constraints = [models.UniqueConstraint(fields=["nova", "day"], name="usage_once_a_day")]

    def __str__(self) -> str:
        return f"{self.nova_id} {self.day}"

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    @property
    def cost(self) -> float:
        return self.cost_micros / 1_000_000


class ModelPrice(models.Model):
    """What a model of an account costs. Without one a budget in money can't be kept, and no call is made."""

    account = models.ForeignKey(ProviderAccount, on_delete=models.PROTECT, related_name="prices")
    model = models.CharField(max_length=128, help_text="as the provider calls it")
    input_price = models.FloatField(validators=[MinValueValidator(0.0)], help_text="of a million tokens that go in")
    output_price = models.FloatField(validators=[MinValueValidator(0.0)], help_text="of a million tokens that come out")
    archived_at = models.DateTimeField(null=True, blank=True, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["account", "model"], name="price_once"),
            models.CheckConstraint(condition=Q(input_price__gte=0, output_price__gte=0), name="price_not_negative"),
        ]

    def __str__(self) -> str:
        return f"{self.model} at {self.account_id}"
